// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title The credit in which work is paid
/// @notice A fixed supply of whole credits, minted once at deployment.
contract CreditToken is ERC20, ERC20Permit {
    /// @notice Totals are carried in 64 bits everywhere.
    error CreditToken__SupplyTooLarge(uint256 supply);

    /// @param holder Who receives the whole supply.
    /// @param supply Credits, below 2^63.
    constructor(address holder, uint256 supply) ERC20("Koinon Credit", "KOIN") ERC20Permit("Koinon Credit") {
        if (supply > uint256(uint64(type(int64).max))) revert CreditToken__SupplyTooLarge(supply);
        _mint(holder, supply);
    }

    /// @notice Credits are whole.
    function decimals() public pure override returns (uint8) {
        return 0;
    }
}
