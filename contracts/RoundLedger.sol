// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {Committee} from "./Committee.sol";
import {CompactSignatures} from "./CompactSignatures.sol";
import {MemberRegistry} from "./MemberRegistry.sol";
import {Rewards} from "./Rewards.sol";
import {IDomain} from "./interfaces/IDomain.sol";
import {IRoundLedger} from "./interfaces/IRoundLedger.sol";

/// @title Tasks, rounds and the certificates of the committee
/// @notice See IRoundLedger.
contract RoundLedger is IRoundLedger, EIP712 {
    bytes32 private constant CERTIFICATE_TYPE = keccak256(
        "RoundCertificate(bytes32 task,uint32 round,uint32 epoch,bytes32 parentModel,bytes32 model,bytes32 updatesRoot,bytes32 opening,bytes32 rewardsRoot,uint64 rewardsTotal,uint32 participants)"
    );
    uint8 private constant NODE = 1;
    uint8 private constant AGGREGATOR = 2;
    uint32 private constant ROUND_GAP_MAX = 1024;

    /// @notice Who may create tasks, open rounds and submit updates.
    MemberRegistry public immutable REGISTRY;

    /// @notice Whose quorum certifies rounds.
    Committee public immutable COMMITTEE;

    /// @notice Where budgets lie.
    Rewards public immutable REWARDS;

    /// @notice Seconds between `stopTask` and `closeTask`, so that open rounds can still be committed and paid.
    uint64 public immutable CLOSE_DELAY;

    mapping(bytes32 id => Task) private _tasks;
    mapping(bytes32 id => mapping(uint32 number => Round)) private _rounds;

    /// @dev The other contracts were given this one's future address, or the constructor reverts.
    constructor(MemberRegistry registry, Committee committee, Rewards rewards, uint64 closeDelay)
        EIP712("Koinon", "1")
    {
        if (address(registry.LEDGER()) != address(this)) revert RoundLedger__Miswired();
        if (address(committee.LEDGER()) != address(this)) revert RoundLedger__Miswired();
        if (rewards.LEDGER() != address(this)) revert RoundLedger__Miswired();
        REGISTRY = registry;
        COMMITTEE = committee;
        REWARDS = rewards;
        CLOSE_DELAY = closeDelay;
    }

    /// @inheritdoc IRoundLedger
    function createTask(bytes32 id, bytes32 spec, bytes32 initialModel, uint64 budget) external {
        _createTask(id, spec, initialModel, budget);
    }

    /// @inheritdoc IRoundLedger
    function createTaskWithPermit(
        bytes32 id,
        bytes32 spec,
        bytes32 initialModel,
        uint64 budget,
        uint256 deadline,
        bytes calldata signature
    ) external {
        _permit(budget, deadline, signature);
        _createTask(id, spec, initialModel, budget);
    }

    /// @inheritdoc IRoundLedger
    function openRound(bytes32 id, uint32 number, uint32 epoch, bytes32 parentModel, uint64 deadline) external {
        if (!REGISTRY.hasRoles(msg.sender, AGGREGATOR)) revert RoundLedger__MissingRole(msg.sender, AGGREGATOR);
        Task storage known = _requireTask(id);
        if (known.closableAt != 0) revert RoundLedger__TaskStopped(id);
        uint32 last = known.lastOpened;
        if (number <= last || number - last > ROUND_GAP_MAX) revert RoundLedger__RoundOutOfOrder(number, last);
        if (parentModel != known.model) revert RoundLedger__WrongParent(parentModel, known.model);
        if (!COMMITTEE.inForce(epoch)) revert RoundLedger__EpochNotInForce(epoch);
        known.lastOpened = number;
        Round storage opened = _rounds[id][number];
        opened.aggregator = msg.sender;
        opened.epoch = epoch;
        opened.deadline = deadline;
        emit RoundOpened(id, number, msg.sender, epoch, parentModel, deadline);
    }

    /// @inheritdoc IRoundLedger
    function commitRound(
        RoundCertificate calldata certificate,
        address[] calldata members,
        uint256 bitmap,
        bytes calldata signatures
    ) external {
        bytes32 structHash = _structHash(certificate);
        _requireCommittable(certificate);
        COMMITTEE.requireQuorum(certificate.epoch, _hashTypedDataV4(structHash), members, bitmap, signatures);

        Task storage known = _tasks[certificate.task];
        Round storage committed = _rounds[certificate.task][certificate.round];
        known.model = certificate.model;
        known.lastCommitted = certificate.round;
        known.rewardsTotal = certificate.rewardsTotal;
        committed.model = certificate.model;
        committed.updatesRoot = certificate.updatesRoot;
        committed.rewardsRoot = certificate.rewardsRoot;
        committed.certificate = structHash;
        emit RoundCommitted(certificate.task, certificate.round, certificate.model, certificate, bitmap);
        REWARDS.certify(certificate.task, certificate.rewardsRoot, certificate.rewardsTotal);
    }

    /// @inheritdoc IRoundLedger
    function submitUpdate(bytes32 id, uint32 number, bytes32 update, uint32 examples) external {
        if (!REGISTRY.hasRoles(msg.sender, NODE)) revert RoundLedger__MissingRole(msg.sender, NODE);
        Task storage known = _requireTask(id);
        _requireOpen(known, id, number);
        emit UpdateSubmitted(id, number, msg.sender, update, examples);
    }

    /// @inheritdoc IRoundLedger
    function stopTask(bytes32 id) external {
        Task storage known = _requireTask(id);
        if (msg.sender != known.submitter) revert RoundLedger__NotSubmitter(msg.sender);
        if (known.closableAt != 0) revert RoundLedger__TaskStopped(id);
        known.closableAt = uint64(block.timestamp) + CLOSE_DELAY;
        emit TaskStopped(id, known.closableAt);
    }

    /// @inheritdoc IRoundLedger
    function closeTask(bytes32 id) external {
        Task storage known = _requireTask(id);
        if (msg.sender != known.submitter) revert RoundLedger__NotSubmitter(msg.sender);
        if (known.closed) revert RoundLedger__TaskClosed(id);
        if (known.closableAt == 0 || block.timestamp < known.closableAt) {
            revert RoundLedger__NotClosable(id, known.closableAt);
        }
        known.closed = true;
        uint64 returned = REWARDS.release(id, msg.sender);
        emit TaskClosed(id, msg.sender, returned);
    }

    /// @inheritdoc IRoundLedger
    function task(bytes32 id) external view returns (Task memory) {
        return _tasks[id];
    }

    /// @inheritdoc IRoundLedger
    function round(bytes32 id, uint32 number) external view returns (Round memory) {
        return _rounds[id][number];
    }

    /// @inheritdoc IRoundLedger
    function certificateDigest(RoundCertificate calldata certificate) external view returns (bytes32) {
        return _hashTypedDataV4(_structHash(certificate));
    }

    /// @inheritdoc IDomain
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _createTask(bytes32 id, bytes32 spec, bytes32 initialModel, uint64 budget) private {
        if (!REGISTRY.isMember(msg.sender)) revert RoundLedger__NotMember(msg.sender);
        if (initialModel == 0) revert RoundLedger__ZeroDigest();
        if (id != keccak256(abi.encode(msg.sender, spec))) revert RoundLedger__ForeignTask(id, msg.sender);
        Task storage created = _tasks[id];
        if (created.submitter != address(0)) revert RoundLedger__TaskExists(id);
        created.submitter = msg.sender;
        created.spec = spec;
        created.model = initialModel;
        created.budget = budget;
        emit TaskCreated(id, msg.sender, spec, initialModel, budget);
        if (budget != 0) REWARDS.escrow(id, msg.sender, budget);
    }

    /// @dev A permit that somebody else handed in first has done its work: only the transfer decides.
    function _permit(uint64 budget, uint256 deadline, bytes calldata signature) private {
        if (signature.length != CompactSignatures.LENGTH) {
            revert CompactSignatures.CompactSignatures__BadLength(signature.length);
        }
        bytes32 vs = bytes32(signature[32:64]);
        uint8 v = uint8((uint256(vs) >> 255) + 27);
        bytes32 s = vs & bytes32(uint256(type(int256).max));
        IERC20Permit token = IERC20Permit(address(REWARDS.TOKEN()));
        try token.permit(msg.sender, address(REWARDS), budget, deadline, v, bytes32(signature[:32]), s) {} catch {}
    }

    function _requireTask(bytes32 id) private view returns (Task storage known) {
        known = _tasks[id];
        if (known.submitter == address(0)) revert RoundLedger__UnknownTask(id);
    }

    function _requireOpen(Task storage known, bytes32 id, uint32 number) private view {
        if (known.closed) revert RoundLedger__TaskClosed(id);
        if (_rounds[id][number].aggregator == address(0)) revert RoundLedger__UnknownRound(id, number);
        if (number <= known.lastCommitted) revert RoundLedger__AlreadyCommitted(number, known.lastCommitted);
    }

    function _requireCommittable(RoundCertificate calldata certificate) private view {
        Task storage known = _requireTask(certificate.task);
        _requireOpen(known, certificate.task, certificate.round);
        uint32 pinned = _rounds[certificate.task][certificate.round].epoch;
        if (certificate.epoch != pinned) revert RoundLedger__WrongEpoch(certificate.epoch, pinned);
        if (certificate.parentModel != known.model) {
            revert RoundLedger__WrongParent(certificate.parentModel, known.model);
        }
        if (certificate.model == 0) revert RoundLedger__ZeroDigest();
    }

    function _structHash(RoundCertificate calldata certificate) private pure returns (bytes32) {
        return keccak256(abi.encode(CERTIFICATE_TYPE, certificate));
    }
}
