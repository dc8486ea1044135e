// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title The EIP-712 domain that all signatures of one Koinon network share
interface IDomain {
    /// @notice The separator of ("Koinon", "1", chain id, round ledger), recomputed after a chain split.
    function domainSeparator() external view returns (bytes32);
}
