// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {CompactSignatures} from "./CompactSignatures.sol";
import {IDomain} from "./interfaces/IDomain.sol";
import {IMemberRegistry} from "./interfaces/IMemberRegistry.sol";

/// @title Who may train, aggregate and audit
/// @notice See IMemberRegistry.
contract MemberRegistry is IMemberRegistry {
    bytes32 private constant ADMISSION_TYPE =
        keccak256("Admission(address member,uint8 roles,uint32 examplesMax,bytes32 sealingKey,uint64 serial)");
    bytes32 private constant REVOCATION_TYPE = keccak256("Revocation(address member,uint64 serial)");

    /// @notice Whose domain the credentials are signed in.
    IDomain public immutable LEDGER;

    /// @notice Whose signature admits and revokes.
    address public immutable REGISTRAR;

    mapping(address account => Member) private _members;

    /// @param ledger The round ledger, which may be deployed later.
    /// @param registrar Whose signature admits and revokes.
    constructor(IDomain ledger, address registrar) {
        if (address(ledger) == address(0) || registrar == address(0)) revert MemberRegistry__ZeroAddress();
        LEDGER = ledger;
        REGISTRAR = registrar;
    }

    /// @inheritdoc IMemberRegistry
    function register(Admission calldata admission, bytes calldata signature) external {
        _requireRegistrar(admissionDigest(admission), signature);
        Member storage known = _members[admission.member];
        _requireNewer(admission.member, admission.serial, known.serial);
        known.active = true;
        known.roles = admission.roles;
        known.examplesMax = admission.examplesMax;
        known.serial = admission.serial;
        known.sealingKey = admission.sealingKey;
        emit MemberRegistered(
            admission.member, admission.roles, admission.examplesMax, admission.sealingKey, admission.serial
        );
    }

    /// @inheritdoc IMemberRegistry
    function revoke(Revocation calldata revocation, bytes calldata signature) external {
        _requireRegistrar(revocationDigest(revocation), signature);
        Member storage known = _members[revocation.member];
        _requireNewer(revocation.member, revocation.serial, known.serial);
        if (!known.active) revert MemberRegistry__NotMember(revocation.member);
        known.active = false;
        known.roles = 0;
        known.serial = revocation.serial;
        emit MemberRevoked(revocation.member, revocation.serial);
    }

    /// @inheritdoc IMemberRegistry
    function member(address account) external view returns (Member memory) {
        return _members[account];
    }

    /// @inheritdoc IMemberRegistry
    function isMember(address account) external view returns (bool) {
        return _members[account].active;
    }

    /// @inheritdoc IMemberRegistry
    function hasRoles(address account, uint8 roles) external view returns (bool) {
        Member storage known = _members[account];
        return known.active && known.roles & roles == roles;
    }

    /// @inheritdoc IMemberRegistry
    function admissionDigest(Admission calldata admission) public view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(
            LEDGER.domainSeparator(), keccak256(abi.encode(ADMISSION_TYPE, admission))
        );
    }

    /// @inheritdoc IMemberRegistry
    function revocationDigest(Revocation calldata revocation) public view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(
            LEDGER.domainSeparator(), keccak256(abi.encode(REVOCATION_TYPE, revocation))
        );
    }

    function _requireRegistrar(bytes32 digest, bytes calldata signature) private view {
        address signer = CompactSignatures.recover(digest, signature);
        if (signer != REGISTRAR) revert MemberRegistry__NotRegistrar(signer);
    }

    function _requireNewer(address account, uint64 serial, uint64 last) private pure {
        if (serial <= last) revert MemberRegistry__StaleSerial(account, serial, last);
    }
}
