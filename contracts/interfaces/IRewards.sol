// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Escrowed budgets and cumulative Merkle claims
/// @notice A task's budget lies here from its creation. Each certified round replaces the task's Merkle root over
/// (task, account, cumulative credits); an account pulls what it has earned and not yet claimed.
interface IRewards {
    /// @notice The escrow of one task. Always claimed <= total <= budget.
    struct Account {
        bytes32 root;
        uint64 budget;
        uint64 total;
        uint64 claimed;
        bool released;
    }

    /// @notice A task's budget was put in escrow.
    event BudgetEscrowed(bytes32 indexed task, address indexed payer, uint64 amount);

    /// @notice What no round had earned went back when the task was closed.
    event BudgetReleased(bytes32 indexed task, address indexed payee, uint64 amount);

    /// @notice A certified round replaced the task's reward root.
    event RewardsCertified(bytes32 indexed task, bytes32 root, uint64 total);

    /// @notice An account was paid `amount`; it has now received `cumulative` for the task.
    event RewardClaimed(bytes32 indexed task, address indexed account, uint64 amount, uint64 cumulative);

    /// @notice Only the round ledger moves escrows.
    error Rewards__NotLedger(address caller);

    /// @notice A task's budget is escrowed once.
    error Rewards__AlreadyEscrowed(bytes32 task);

    /// @notice The task was closed and its rest returned.
    error Rewards__AlreadyReleased(bytes32 task);

    /// @notice Cumulative rewards never fall.
    error Rewards__TotalFell(uint64 total, uint64 before);

    /// @notice Rewards never exceed the escrowed budget.
    error Rewards__BudgetExceeded(uint64 total, uint64 budget);

    /// @notice The proof does not lead to the task's root.
    error Rewards__BadProof(bytes32 task, address account, uint64 cumulative);

    /// @notice The account has already claimed this much.
    error Rewards__NothingToClaim(bytes32 task, address account, uint64 claimed);

    /// @notice The root promises more than the round certificates granted.
    error Rewards__TotalExceeded(uint64 claimed, uint64 total);

    /// @notice A constructor argument was the zero address.
    error Rewards__ZeroAddress();

    /// @notice Pull `amount` from `payer`, who allowed this contract to. Ledger only.
    function escrow(bytes32 task, address payer, uint64 amount) external;

    /// @notice Set a task's cumulative reward root and total. Ledger only.
    function certify(bytes32 task, bytes32 root, uint64 total) external;

    /// @notice Return to `payee` what is neither claimed nor earned. Ledger only.
    /// @return amount The credits returned.
    function release(bytes32 task, address payee) external returns (uint64 amount);

    /// @notice Pay `account` the difference between `cumulative` and what it has claimed; anybody may call.
    /// @param proof Siblings from the double-hashed leaf (task, account, cumulative) to the task's root.
    function claim(bytes32 task, address account, uint64 cumulative, bytes32[] calldata proof) external;

    /// @notice The escrow of `task`.
    function escrowOf(bytes32 task) external view returns (Account memory);

    /// @notice What `account` has claimed of `task`.
    function claimed(bytes32 task, address account) external view returns (uint64);
}
