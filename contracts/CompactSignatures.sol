// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title 64-byte signatures (EIP-2098), one or many in a row
/// @dev Malleable and invalid signatures recover to the zero address, which no caller accepts.
library CompactSignatures {
    uint256 internal constant LENGTH = 64;

    /// @notice A single signature must have 64 bytes.
    error CompactSignatures__BadLength(uint256 length);

    /// @notice The signer of `digest`, or zero.
    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address) {
        if (signature.length != LENGTH) revert CompactSignatures__BadLength(signature.length);
        return recoverAt(digest, signature, 0);
    }

    /// @notice The signer of `digest` by the signature at `position` of many, or zero. The caller checks the length.
    function recoverAt(bytes32 digest, bytes calldata signatures, uint256 position) internal pure returns (address) {
        uint256 start = position * LENGTH;
        bytes32 r = bytes32(signatures[start:start + 32]);
        bytes32 vs = bytes32(signatures[start + 32:start + LENGTH]);
        (address signer,,) = ECDSA.tryRecover(digest, r, vs);
        return signer;
    }
}
