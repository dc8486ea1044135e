// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

import {IRewards} from "./interfaces/IRewards.sol";

/// @title Escrowed budgets and cumulative Merkle claims
/// @notice See IRewards.
contract Rewards is IRewards {
    using SafeERC20 for IERC20;

    /// @notice The credit.
    IERC20 public immutable TOKEN;

    /// @notice The only caller that moves escrows.
    address public immutable LEDGER;

    mapping(bytes32 task => Account) private _escrows;
    mapping(bytes32 task => mapping(address account => uint64)) private _claimed;

    modifier onlyLedger() {
        if (msg.sender != LEDGER) revert Rewards__NotLedger(msg.sender);
        _;
    }

    /// @param token The credit.
    /// @param ledger The round ledger.
    constructor(IERC20 token, address ledger) {
        if (address(token) == address(0) || ledger == address(0)) revert Rewards__ZeroAddress();
        TOKEN = token;
        LEDGER = ledger;
    }

    /// @inheritdoc IRewards
    function escrow(bytes32 task, address payer, uint64 amount) external onlyLedger {
        Account storage account = _escrows[task];
        if (account.budget != 0) revert Rewards__AlreadyEscrowed(task);
        account.budget = amount;
        emit BudgetEscrowed(task, payer, amount);
        TOKEN.safeTransferFrom(payer, address(this), amount);
    }

    /// @inheritdoc IRewards
    function certify(bytes32 task, bytes32 root, uint64 total) external onlyLedger {
        Account storage account = _escrows[task];
        if (account.released) revert Rewards__AlreadyReleased(task);
        if (total < account.total) revert Rewards__TotalFell(total, account.total);
        if (total > account.budget) revert Rewards__BudgetExceeded(total, account.budget);
        account.root = root;
        account.total = total;
        emit RewardsCertified(task, root, total);
    }

    /// @inheritdoc IRewards
    function release(bytes32 task, address payee) external onlyLedger returns (uint64 amount) {
        Account storage account = _escrows[task];
        if (account.released) revert Rewards__AlreadyReleased(task);
        account.released = true;
        amount = account.budget - account.total;
        emit BudgetReleased(task, payee, amount);
        TOKEN.safeTransfer(payee, amount);
    }

    /// @inheritdoc IRewards
    function claim(bytes32 task, address account, uint64 cumulative, bytes32[] calldata proof) external {
        Account storage funds = _escrows[task];
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(task, account, cumulative))));
        if (!MerkleProof.verifyCalldata(proof, funds.root, leaf)) revert Rewards__BadProof(task, account, cumulative);
        uint64 before = _claimed[task][account];
        if (cumulative <= before) revert Rewards__NothingToClaim(task, account, before);
        uint64 amount = cumulative - before;
        uint64 after_ = funds.claimed + amount;
        if (after_ > funds.total) revert Rewards__TotalExceeded(after_, funds.total);
        funds.claimed = after_;
        _claimed[task][account] = cumulative;
        emit RewardClaimed(task, account, amount, cumulative);
        TOKEN.safeTransfer(account, amount);
    }

    /// @inheritdoc IRewards
    function escrowOf(bytes32 task) external view returns (Account memory) {
        return _escrows[task];
    }

    /// @inheritdoc IRewards
    function claimed(bytes32 task, address account) external view returns (uint64) {
        return _claimed[task][account];
    }
}
