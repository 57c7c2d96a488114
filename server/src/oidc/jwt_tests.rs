//! Tokens that are nearly right, signed by a key of the test's own.
