// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {CompactSignatures} from "./CompactSignatures.sol";
import {ICommittee} from "./interfaces/ICommittee.sol";
import {IDomain} from "./interfaces/IDomain.sol";

/// @title The replicas, epoch by epoch, and their quorum
/// @notice See ICommittee.
/// @dev The owner's power to install an epoch ends with `renounceOwnership`; certificates remain.
contract Committee is ICommittee, Ownable {
    uint256 private constant SIZE_MAX = 31;
    uint8 private constant PHASES = 3;
    uint64 private constant GRACE = 7 days;
    bytes32 private constant EPOCH_TYPE = keccak256("EpochChange(uint32 epoch,bytes32 members,bytes32 contacts)");
    bytes32 private constant CHECKPOINT_TYPE =
        keccak256("Checkpoint(uint32 epoch,uint64 sequence,bytes32 state,bytes32 next)");
    bytes32 private constant VOTE_TYPE =
        keccak256("Vote(uint8 phase,uint32 epoch,uint64 view,uint64 sequence,bytes32 digest)");

    /// @notice Whose domain certificates are signed in.
    IDomain public immutable LEDGER;

    /// @inheritdoc ICommittee
    mapping(address member => bool) public convicted;

    Epoch[] private _epochs;

    /// @param ledger The round ledger, which may be deployed later.
    /// @param owner Who may install epochs without a certificate.
    /// @param members The replicas of epoch 0 by index.
    constructor(
        IDomain ledger,
        address owner,
        address[] memory members,
        bytes32[] memory sealingKeys,
        string[] memory urls
    ) Ownable(owner) {
        LEDGER = ledger;
        _install(members, sealingKeys, urls);
    }

    /// @inheritdoc ICommittee
    function installEpoch(address[] calldata members, bytes32[] calldata sealingKeys, string[] calldata urls)
        external
        onlyOwner
    {
        for (uint256 index = 0; index < members.length; ++index) {
            if (convicted[members[index]]) revert Committee__ConvictedMember(members[index]);
        }
        _install(members, sealingKeys, urls);
    }

    /// @inheritdoc ICommittee
    function installEpochByCertificate(
        address[] calldata members,
        bytes32[] calldata sealingKeys,
        string[] calldata urls,
        Handover calldata handover
    ) external {
        bytes32 next = epochChange(epoch() + 1, members, sealingKeys, urls);
        bytes32 digest = checkpointDigest(epoch(), handover.sequence, handover.state, next);
        requireQuorum(epoch(), digest, handover.members, handover.bitmap, handover.signatures);
        _requireNoConvictedNewcomer(members, handover.members);
        _install(members, sealingKeys, urls);
        emit EpochHandedOver(epoch(), handover.sequence, handover.state, handover.bitmap, handover.signatures);
    }

    /// @inheritdoc ICommittee
    function reportEquivocation(
        uint32 number,
        address[] calldata members,
        uint256 index,
        Vote calldata first,
        Vote calldata second,
        bytes calldata signatures
    ) external {
        _requireMembers(number, members);
        if (index >= members.length) revert Committee__IndexOutOfRange(index, members.length);
        address member = members[index];
        if (convicted[member]) revert Committee__AlreadyConvicted(member);
        _requireContradiction(number, first, second);
        uint256 expected = 2 * CompactSignatures.LENGTH;
        if (signatures.length != expected) revert Committee__SignatureLength(signatures.length, expected);
        _requireSigner(member, index, voteDigest(first), signatures, 0);
        _requireSigner(member, index, voteDigest(second), signatures, 1);
        convicted[member] = true;
        emit ReplicaConvicted(number, index, member, msg.sender, first, second, signatures);
    }

    /// @inheritdoc ICommittee
    function requireQuorum(
        uint32 number,
        bytes32 digest,
        address[] calldata members,
        uint256 bitmap,
        bytes calldata signatures
    ) public view {
        _requireMembers(number, members);
        if (bitmap >> members.length != 0) revert Committee__BitmapOutOfRange(bitmap, members.length);
        uint256 signers = _countOnes(bitmap);
        uint256 needed = quorum(members.length);
        if (signers < needed) revert Committee__NoQuorum(signers, needed);
        uint256 expected = signers * CompactSignatures.LENGTH;
        if (signatures.length != expected) revert Committee__SignatureLength(signatures.length, expected);
        uint256 position = 0;
        for (uint256 index = 0; index < members.length; ++index) {
            if ((bitmap >> index) & 1 == 0) continue;
            _requireSigner(members[index], index, digest, signatures, position++);
        }
    }

    /// @inheritdoc ICommittee
    function epoch() public view returns (uint32) {
        return uint32(_epochs.length - 1);
    }

    /// @inheritdoc ICommittee
    function epochInfo(uint32 number) external view returns (Epoch memory) {
        if (number >= _epochs.length) revert Committee__UnknownEpoch(number);
        return _epochs[number];
    }

    /// @inheritdoc ICommittee
    function quorum(uint256 size) public pure returns (uint256) {
        return size - (size - 1) / 3;
    }

    /// @inheritdoc ICommittee
    function inForce(uint32 number) external view returns (bool) {
        if (number >= _epochs.length) return false;
        return number == epoch() || block.timestamp < _epochs[number + 1].installedAt + GRACE;
    }

    /// @inheritdoc ICommittee
    function epochChange(
        uint32 number,
        address[] calldata members,
        bytes32[] calldata sealingKeys,
        string[] calldata urls
    ) public pure returns (bytes32) {
        bytes32 membersHash = keccak256(abi.encodePacked(members));
        return keccak256(abi.encode(EPOCH_TYPE, number, membersHash, keccak256(abi.encode(sealingKeys, urls))));
    }

    /// @inheritdoc ICommittee
    function checkpointDigest(uint32 number, uint64 sequence, bytes32 state, bytes32 next)
        public
        view
        returns (bytes32)
    {
        return _digest(keccak256(abi.encode(CHECKPOINT_TYPE, number, sequence, state, next)));
    }

    /// @inheritdoc ICommittee
    function voteDigest(Vote calldata vote) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(VOTE_TYPE, vote)));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(LEDGER.domainSeparator(), structHash);
    }

    function _requireMembers(uint32 number, address[] calldata members) private view {
        if (number >= _epochs.length) revert Committee__UnknownEpoch(number);
        bytes32 membersHash = keccak256(abi.encodePacked(members));
        if (membersHash != _epochs[number].membersHash) revert Committee__WrongMembers(number, membersHash);
    }

    function _requireSigner(
        address member,
        uint256 index,
        bytes32 digest,
        bytes calldata signatures,
        uint256 position
    ) private pure {
        address recovered = CompactSignatures.recoverAt(digest, signatures, position);
        if (recovered != member) revert Committee__BadSignature(index, recovered);
    }

    function _requireContradiction(uint32 number, Vote calldata first, Vote calldata second) private pure {
        if (first.phase == 0 || first.phase > PHASES) revert Committee__PhaseOutOfRange(first.phase);
        if (
            first.epoch != number || second.epoch != number || second.phase != first.phase
                || second.view_ != first.view_ || second.sequence != first.sequence
        ) revert Committee__DifferentSlot();
        if (first.digest == second.digest) revert Committee__SameDigest(first.digest);
    }

    function _requireNoConvictedNewcomer(address[] calldata members, address[] calldata current) private view {
        for (uint256 index = 0; index < members.length; ++index) {
            if (!convicted[members[index]]) continue;
            bool stays = false;
            for (uint256 seat = 0; seat < current.length; ++seat) {
                stays = stays || current[seat] == members[index];
            }
            if (!stays) revert Committee__ConvictedMember(members[index]);
        }
    }

    function _install(address[] memory members, bytes32[] memory sealingKeys, string[] memory urls) private {
        uint256 size = members.length;
        if (size == 0 || size > SIZE_MAX) revert Committee__BadSize(size);
        if (sealingKeys.length != size || urls.length != size) {
            revert Committee__LengthMismatch(size, sealingKeys.length, urls.length);
        }
        for (uint256 index = 0; index < size; ++index) {
            if (members[index] == address(0)) revert Committee__ZeroMember(index);
            for (uint256 other = 0; other < index; ++other) {
                if (members[other] == members[index]) revert Committee__DuplicateMember(members[index]);
            }
        }
        bytes32 membersHash = keccak256(abi.encodePacked(members));
        _epochs.push(Epoch(membersHash, uint8(size), uint64(block.number), uint64(block.timestamp)));
        emit EpochInstalled(epoch(), membersHash, members, sealingKeys, urls);
    }

    function _countOnes(uint256 bitmap) private pure returns (uint256 ones) {
        for (; bitmap != 0; bitmap &= bitmap - 1) {
            ++ones;
        }
    }
}
