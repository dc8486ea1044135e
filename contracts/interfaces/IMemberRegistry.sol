// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Who may train, aggregate and audit
/// @notice Members are admitted and revoked by credentials that the registrar signed off chain; anybody may hand
/// them in. The same credential is checked by the committee's law, so chain and log agree on membership.
interface IMemberRegistry {
    /// @notice The EIP-712 struct that the registrar signs to admit a party (koinon/wire.py).
    struct Admission {
        address member;
        uint8 roles;
        uint32 examplesMax;
        bytes32 sealingKey;
        uint64 serial;
    }

    /// @notice The EIP-712 struct that the registrar signs to end a membership.
    struct Revocation {
        address member;
        uint64 serial;
    }

    /// @notice A party; `serial` is that of the last credential about it, 0 when there was none.
    struct Member {
        bool active;
        uint8 roles;
        uint32 examplesMax;
        uint64 serial;
        bytes32 sealingKey;
    }

    /// @notice A party was admitted, or admitted anew with other roles or another key.
    event MemberRegistered(
        address indexed member, uint8 roles, uint32 examplesMax, bytes32 sealingKey, uint64 serial
    );

    /// @notice A membership ended.
    event MemberRevoked(address indexed member, uint64 serial);

    /// @notice The credential was not signed by the registrar.
    error MemberRegistry__NotRegistrar(address signer);

    /// @notice The credential is not newer than the last one about this party.
    error MemberRegistry__StaleSerial(address member, uint64 serial, uint64 last);

    /// @notice A party that was never admitted, or is no longer, cannot be revoked.
    error MemberRegistry__NotMember(address member);

    /// @notice A constructor argument was the zero address.
    error MemberRegistry__ZeroAddress();

    /// @notice Admit a party. The serial must be larger than that of the last credential about it.
    /// @param signature 64 bytes (EIP-2098) of the registrar over `admissionDigest(admission)`.
    function register(Admission calldata admission, bytes calldata signature) external;

    /// @notice End a membership. The serial must be larger than that of the last credential about the party.
    /// @param signature 64 bytes (EIP-2098) of the registrar over `revocationDigest(revocation)`.
    function revoke(Revocation calldata revocation, bytes calldata signature) external;

    /// @notice What is known of `account`.
    function member(address account) external view returns (Member memory);

    /// @notice Whether `account` is a member now.
    function isMember(address account) external view returns (bool);

    /// @notice Whether `account` is a member now and has all of `roles`.
    function hasRoles(address account, uint8 roles) external view returns (bool);

    /// @notice The EIP-712 digest that the registrar signs for `admission`.
    function admissionDigest(Admission calldata admission) external view returns (bytes32);

    /// @notice The EIP-712 digest that the registrar signs for `revocation`.
    function revocationDigest(Revocation calldata revocation) external view returns (bytes32);
}
