// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Evidence of equivocation
/// @notice Replicas sign their votes as EIP-712 structs, so two votes of one replica for one slot with other digests
/// are proof that any contract can check. No contract implements this yet; the struct is fixed so that votes signed
/// today remain evidence.
interface ISlashing {
    /// @notice One replica's word on one slot (koinon/wire.py).
    struct Vote {
        uint8 phase;
        uint64 view_;
        uint64 sequence;
        bytes32 digest;
    }

    /// @notice A replica was proven to have voted twice for one slot.
    event EquivocationProven(uint32 indexed epoch, address indexed replica, uint64 view_, uint64 sequence);

    /// @notice Prove that one member of `epoch` signed both votes.
    /// @param firstSignature 64 bytes (EIP-2098) over the EIP-712 digest of `first`.
    /// @param secondSignature 64 bytes (EIP-2098) over the EIP-712 digest of `second`.
    function proveEquivocation(
        uint32 epoch,
        Vote calldata first,
        bytes calldata firstSignature,
        Vote calldata second,
        bytes calldata secondSignature
    ) external;
}
