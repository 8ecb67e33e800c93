// Package auth holds what proves who somebody is, apart from certificates:
// passwords, tokens, one-time secrets, and the limits on guessing them.
//
// Nothing here stores anything or knows the cluster. What the state keeps of a
// bearer secret is its hash; what it keeps of a password is an argon2id hash,
// encrypted by the caller.
package auth
