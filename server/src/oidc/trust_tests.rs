//! Rules and what they let in.
