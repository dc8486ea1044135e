// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDomain} from "./IDomain.sol";

/// @title Tasks, rounds and the certificates of the committee
/// @notice A round is opened with the committee epoch of that moment pinned, and committed by a certificate that a
/// quorum of that epoch signed. Certified models form one chain a task: each names its parent.
interface IRoundLedger is IDomain {
    /// @notice What 2f+1 replicas sign when a round is done (koinon/wire.py).
    struct RoundCertificate {
        bytes32 task;
        uint32 round;
        uint32 epoch;
        bytes32 parentModel;
        bytes32 model;
        bytes32 updatesRoot;
        bytes32 opening;
        bytes32 rewardsRoot;
        uint64 rewardsTotal;
        uint32 participants;
    }

    /// @notice A task. `model` is the last certified one, at first the initial one.
    struct Task {
        address submitter;
        bytes32 spec;
        bytes32 model;
        uint64 budget;
        uint64 rewardsTotal;
        uint32 lastOpened;
        uint32 lastCommitted;
        uint64 closableAt;
        bool closed;
    }

    /// @notice A round; the last four are zero until it is committed. `deadline` (ms) is for the reader only.
    struct Round {
        address aggregator;
        uint32 epoch;
        uint64 deadline;
        bytes32 model;
        bytes32 updatesRoot;
        bytes32 rewardsRoot;
        bytes32 certificate;
    }

    /// @notice A task was put on chain and its budget escrowed.
    event TaskCreated(
        bytes32 indexed task, address indexed submitter, bytes32 spec, bytes32 initialModel, uint64 budget
    );

    /// @notice The submitter ended a task; open rounds may be committed until `closableAt` (seconds) and after.
    event TaskStopped(bytes32 indexed task, uint64 closableAt);

    /// @notice A task is over for good and its unspent budget returned.
    event TaskClosed(bytes32 indexed task, address indexed submitter, uint64 returned);

    /// @notice A round was opened and the committee epoch pinned to it.
    event RoundOpened(
        bytes32 indexed task,
        uint32 indexed round,
        address indexed aggregator,
        uint32 epoch,
        bytes32 parentModel,
        uint64 deadline
    );

    /// @notice A quorum certified a round. `signers` is the bitmap of the replicas whose signatures were verified.
    event RoundCommitted(
        bytes32 indexed task,
        uint32 indexed round,
        bytes32 indexed model,
        RoundCertificate certificate,
        uint256 signers
    );

    /// @notice A node put its update's digest on chain directly, around the committee.
    event UpdateSubmitted(
        bytes32 indexed task, uint32 indexed round, address indexed node, bytes32 update, uint32 examples
    );

    /// @notice The contracts given to the constructor do not point at this one.
    error RoundLedger__Miswired();

    /// @notice Only members may create tasks.
    error RoundLedger__NotMember(address account);

    /// @notice The caller lacks the role that this needs.
    error RoundLedger__MissingRole(address account, uint8 role);

    /// @notice A task is named by its submitter and its spec: keccak256(abi.encode(submitter, spec)).
    error RoundLedger__ForeignTask(bytes32 task, address sender);

    /// @notice A task with this identity exists.
    error RoundLedger__TaskExists(bytes32 task);

    /// @notice There is no such task.
    error RoundLedger__UnknownTask(bytes32 task);

    /// @notice Only the submitter may end a task.
    error RoundLedger__NotSubmitter(address account);

    /// @notice The task takes no more rounds.
    error RoundLedger__TaskStopped(bytes32 task);

    /// @notice The task is over.
    error RoundLedger__TaskClosed(bytes32 task);

    /// @notice The task was not stopped, or not long enough ago.
    error RoundLedger__NotClosable(bytes32 task, uint64 closableAt);

    /// @notice Rounds are numbered from 1, strictly increasing, with gaps of at most 1024.
    error RoundLedger__RoundOutOfOrder(uint32 round, uint32 last);

    /// @notice The round does not start from the task's last certified model.
    error RoundLedger__WrongParent(bytes32 parentModel, bytes32 model);

    /// @notice The round was never opened.
    error RoundLedger__UnknownRound(bytes32 task, uint32 round);

    /// @notice The round, or a later one, is already committed.
    error RoundLedger__AlreadyCommitted(uint32 round, uint32 last);

    /// @notice No committee of this epoch may certify rounds: it was replaced long ago, or not yet appointed.
    error RoundLedger__EpochNotInForce(uint32 epoch);

    /// @notice The certificate is of another epoch than the one pinned when the round was opened.
    error RoundLedger__WrongEpoch(uint32 epoch, uint32 pinned);

    /// @notice A digest that must say something is zero.
    error RoundLedger__ZeroDigest();

    /// @notice Create a task; the budget is pulled from the caller, who allowed the rewards contract to.
    /// @param task The task's identity in the committee's log.
    /// @param spec The digest of its TaskSpec.
    /// @param initialModel The digest of the first parent model.
    /// @param budget Credits to escrow.
    function createTask(bytes32 task, bytes32 spec, bytes32 initialModel, uint64 budget) external;

    /// @notice `createTask` with the allowance given in the same transaction (EIP-2612).
    /// @param deadline The permit's, in seconds.
    /// @param signature 64 bytes (EIP-2098) of the caller's permit for the rewards contract.
    function createTaskWithPermit(
        bytes32 task,
        bytes32 spec,
        bytes32 initialModel,
        uint64 budget,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Open a round and pin to it the committee epoch that ordered it. Aggregators only.
    /// @param epoch Must be in force (ICommittee): a round that was certified before a handover can follow it.
    function openRound(bytes32 task, uint32 round, uint32 epoch, bytes32 parentModel, uint64 deadline) external;

    /// @notice Commit a round by its certificate; anybody may hand it in.
    /// @param members The members of the pinned epoch by index.
    /// @param bitmap Which of them signed.
    /// @param signatures 64 bytes (EIP-2098) for each set bit, by ascending index.
    function commitRound(
        RoundCertificate calldata certificate,
        address[] calldata members,
        uint256 bitmap,
        bytes calldata signatures
    ) external;

    /// @notice Put an update's digest on chain directly. Nodes only, for an opened and uncommitted round.
    function submitUpdate(bytes32 task, uint32 round, bytes32 update, uint32 examples) external;

    /// @notice Take no more rounds. Submitter only.
    function stopTask(bytes32 task) external;

    /// @notice Return the unspent budget, once the delay after `stopTask` has passed. Submitter only.
    function closeTask(bytes32 task) external;

    /// @notice What is known of a task; all zero for none.
    function task(bytes32 id) external view returns (Task memory);

    /// @notice What is known of a round; all zero for none.
    function round(bytes32 id, uint32 number) external view returns (Round memory);

    /// @notice The EIP-712 digest that replicas sign.
    function certificateDigest(RoundCertificate calldata certificate) external view returns (bytes32);
}
