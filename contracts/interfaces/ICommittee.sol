// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title The replicas, epoch by epoch, and their quorum
/// @notice Only the hash of an epoch's members is stored; callers bring the members in calldata, where they cost a
/// fraction of a storage read each. The event of an epoch tells clients where its replicas answer.
interface ICommittee {
    /// @notice An epoch: the hash of its members by index, how many they are, and the block and time of its event.
    struct Epoch {
        bytes32 membersHash;
        uint8 size;
        uint64 installedBlock;
        uint64 installedAt;
    }

    /// @notice The certificate of the last checkpoint of an epoch.
    struct Handover {
        /// The checkpoint's sequence number in the ordered log, and the digest of the state there.
        uint64 sequence;
        bytes32 state;
        /// The members of the epoch that ends, and which of them signed, by index.
        address[] members;
        uint256 bitmap;
        /// Their 64-byte signatures of the checkpoint, by ascending index.
        bytes signatures;
    }

    /// @notice One replica's word on one slot of the ordered log (koinon/wire.py). EIP-712:
    /// Vote(uint8 phase,uint32 epoch,uint64 view,uint64 sequence,bytes32 digest)
    struct Vote {
        uint8 phase;
        uint32 epoch;
        uint64 view_;
        uint64 sequence;
        bytes32 digest;
    }

    /// @notice A committee was installed. Arrays are by replica index.
    event EpochInstalled(
        uint32 indexed epoch, bytes32 membersHash, address[] members, bytes32[] sealingKeys, string[] urls
    );

    /// @notice The committee of the epoch before handed over to `epoch` (installed by the same call),
    /// at the checkpoint (`sequence`, `state`) of its log.
    /// @param signers Which of its members signed, as a bitmap by index.
    /// @param signatures Their 64-byte signatures of the checkpoint, by ascending index.
    event EpochHandedOver(uint32 indexed epoch, uint64 sequence, bytes32 state, uint256 signers, bytes signatures);

    /// @notice A member of `epoch` was proven to have signed two digests for one slot. The event is the whole proof.
    event ReplicaConvicted(
        uint32 indexed epoch,
        uint256 index,
        address indexed member,
        address indexed reporter,
        Vote first,
        Vote second,
        bytes signatures
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

    /// @notice The committee doesn't have this index.
    error Committee__IndexOutOfRange(uint256 index, uint256 size);

    /// @notice Replicas vote in the phases 1 (pre-prepare), 2 (prepare) and 3 (commit).
    error Committee__PhaseOutOfRange(uint8 phase);

    /// @notice The votes are not both for one phase, view and sequence of the epoch.
    error Committee__DifferentSlot();

    /// @notice Both votes are for one digest: that is no lie.
    error Committee__SameDigest(bytes32 digest);

    /// @notice One conviction is enough.
    error Committee__AlreadyConvicted(address member);

    /// @notice A convicted replica is not appointed, and does not come back once it has left.
    error Committee__ConvictedMember(address member);

    /// @notice Install the next epoch without a certificate, where a committee has lost its quorum. Owner only; no
    /// convicted replica is appointed. Auditors see that no certificate covers such an epoch.
    function installEpoch(address[] calldata members, bytes32[] calldata sealingKeys, string[] calldata urls) external;

    /// @notice Install the next epoch by the certificate of the last checkpoint of the current one, which names it
    /// (EIP-712: Checkpoint(uint32 epoch,uint64 sequence,bytes32 state,bytes32 next)); anybody may hand it in.
    /// @dev By then the log has gone on with the new committee. So a convicted replica that the committee keeps does
    /// not make this revert, or one liar could cut the chain off by convicting itself; one that would join does.
    function installEpochByCertificate(
        address[] calldata members,
        bytes32[] calldata sealingKeys,
        string[] calldata urls,
        Handover calldata handover
    ) external;

    /// @notice Prove that a member of `epoch` signed two votes for one slot with different digests; anybody may.
    /// @param members The members of the epoch by index.
    /// @param index Which of them signed both.
    /// @param signatures 64 bytes (EIP-2098) over `voteDigest(first)`, then 64 over `voteDigest(second)`.
    function reportEquivocation(
        uint32 epoch,
        address[] calldata members,
        uint256 index,
        Vote calldata first,
        Vote calldata second,
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

    /// @notice Whether rounds of `epoch` may be put on chain: it is the current one, or it was until a week ago. What
    /// a committee certified before it handed over can follow the handover; old committees have no say for ever.
    function inForce(uint32 epoch) external view returns (bool);

    /// @notice Whether `member` was proven to equivocate.
    function convicted(address member) external view returns (bool);

    /// @notice The EIP-712 struct hash of EpochChange(uint32 epoch,bytes32 members,bytes32 contacts): the `next` of the
    /// checkpoint at which a committee hands over to this one.
    function epochChange(
        uint32 number,
        address[] calldata members,
        bytes32[] calldata sealingKeys,
        string[] calldata urls
    ) external pure returns (bytes32);

    /// @notice The EIP-712 digest of a checkpoint, which its committee signs.
    function checkpointDigest(uint32 number, uint64 sequence, bytes32 state, bytes32 next)
        external
        view
        returns (bytes32);

    /// @notice The EIP-712 digest of a vote, which its replica signs.
    function voteDigest(Vote calldata vote) external view returns (bytes32);
}
