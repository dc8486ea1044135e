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
    bytes32 private constant EPOCH_TYPE = keccak256("EpochChange(uint32 epoch,bytes32 members,bytes32 contacts)");

    /// @notice Whose domain certificates are signed in.
    IDomain public immutable LEDGER;

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
        _install(members, sealingKeys, urls);
    }

    /// @inheritdoc ICommittee
    function installEpochByCertificate(
        address[] calldata members,
        bytes32[] calldata sealingKeys,
        string[] calldata urls,
        address[] calldata current,
        uint256 bitmap,
        bytes calldata signatures
    ) external {
        uint32 last = epoch();
        requireQuorum(last, epochDigest(last + 1, members, sealingKeys, urls), current, bitmap, signatures);
        _install(members, sealingKeys, urls);
    }

    /// @inheritdoc ICommittee
    function requireQuorum(
        uint32 number,
        bytes32 digest,
        address[] calldata members,
        uint256 bitmap,
        bytes calldata signatures
    ) public view {
        if (number >= _epochs.length) revert Committee__UnknownEpoch(number);
        bytes32 membersHash = keccak256(abi.encodePacked(members));
        if (membersHash != _epochs[number].membersHash) revert Committee__WrongMembers(number, membersHash);
        if (bitmap >> members.length != 0) revert Committee__BitmapOutOfRange(bitmap, members.length);
        uint256 signers = _countOnes(bitmap);
        uint256 needed = quorum(members.length);
        if (signers < needed) revert Committee__NoQuorum(signers, needed);
        uint256 expected = signers * CompactSignatures.LENGTH;
        if (signatures.length != expected) revert Committee__SignatureLength(signatures.length, expected);
        uint256 position = 0;
        for (uint256 index = 0; index < members.length; ++index) {
            if ((bitmap >> index) & 1 == 0) continue;
            address recovered = CompactSignatures.recoverAt(digest, signatures, position++);
            if (recovered != members[index]) revert Committee__BadSignature(index, recovered);
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
    function epochDigest(
        uint32 number,
        address[] calldata members,
        bytes32[] calldata sealingKeys,
        string[] calldata urls
    ) public view returns (bytes32) {
        bytes32 membersHash = keccak256(abi.encodePacked(members));
        bytes32 contacts = keccak256(abi.encode(sealingKeys, urls));
        return MessageHashUtils.toTypedDataHash(
            LEDGER.domainSeparator(), keccak256(abi.encode(EPOCH_TYPE, number, membersHash, contacts))
        );
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
        _epochs.push(Epoch(membersHash, uint8(size), uint64(block.number)));
        emit EpochInstalled(epoch(), membersHash, members, sealingKeys, urls);
    }

    function _countOnes(uint256 bitmap) private pure returns (uint256 ones) {
        for (; bitmap != 0; bitmap &= bitmap - 1) {
            ++ones;
        }
    }
}
