// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title The replicas, epoch by epoch, and their quorum
/// @notice Only the hash of an epoch's members is stored; callers bring the members in calldata, where they cost a
/// fraction of a storage read each. The event of an epoch tells clients where its replicas answer.
interface ICommittee {
    /// @notice An epoch: the hash of its members by index, how many they are, and the block of its event.
    struct Epoch {
        bytes32 membersHash;
        uint8 size;
        uint64 installedBlock;
    }

    /// @notice A committee was installed. Arrays are by replica index.
    event EpochInstalled(
        uint32 indexed epoch, bytes32 membersHash, address[] members, bytes32[] sealingKeys, string[] urls
    );

    /// @notice A committee has 1 to 31 members.
    error Committee__BadSize(uint256 size);

    /// @notice Members, sealing keys and addresses on the network must be equally many.
    error Committee__LengthMismatch(uint256 members, uint256 sealingKeys, uint256 urls);

    /// @notice The zero address cannot sign.
    error Committee__ZeroMember(uint256 index);

    /// @notice The same address stands at two indices.
    error Committee__DuplicateMember(address member);

    /// @notice No such epoch was installed.
    error Committee__UnknownEpoch(uint32 epoch);

    /// @notice The members brought along are not those of the epoch.
    error Committee__WrongMembers(uint32 epoch, bytes32 membersHash);

    /// @notice The bitmap names an index that the committee doesn't have.
    error Committee__BitmapOutOfRange(uint256 bitmap, uint256 size);

    /// @notice Fewer signers than the quorum.
    error Committee__NoQuorum(uint256 signers, uint256 quorum);

    /// @notice The signatures are not 64 bytes for each bit of the bitmap.
    error Committee__SignatureLength(uint256 length, uint256 expected);

    /// @notice The signature for replica `index` is not that replica's.
    error Committee__BadSignature(uint256 index, address recovered);

    /// @notice Install the next epoch. Owner only.
    function installEpoch(address[] calldata members, bytes32[] calldata sealingKeys, string[] calldata urls) external;

    /// @notice Install the next epoch by a certificate of the current one; anybody may hand it in.
    /// @param current The members of the current epoch.
    /// @param bitmap Which of them signed.
    /// @param signatures Their 64-byte signatures of `epochDigest(...)`, by ascending index.
    function installEpochByCertificate(
        address[] calldata members,
        bytes32[] calldata sealingKeys,
        string[] calldata urls,
        address[] calldata current,
        uint256 bitmap,
        bytes calldata signatures
    ) external;

    /// @notice Revert unless a quorum of `epoch` signed `digest`.
    /// @param members The members of the epoch by index.
    /// @param bitmap Bit i is set when member i signed.
    /// @param signatures 64 bytes (EIP-2098) for each set bit, by ascending index.
    function requireQuorum(
        uint32 epoch,
        bytes32 digest,
        address[] calldata members,
        uint256 bitmap,
        bytes calldata signatures
    ) external view;

    /// @notice The current epoch.
    function epoch() external view returns (uint32);

    /// @notice What is stored of an epoch.
    function epochInfo(uint32 number) external view returns (Epoch memory);

    /// @notice n - floor((n - 1) / 3): the least number of signatures of which a majority is honest.
    function quorum(uint256 size) external pure returns (uint256);

    /// @notice The EIP-712 digest that the current committee signs to hand over to the next.
    function epochDigest(
        uint32 number,
        address[] calldata members,
        bytes32[] calldata sealingKeys,
        string[] calldata urls
    ) external view returns (bytes32);
}
