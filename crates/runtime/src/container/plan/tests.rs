//! What a container becomes, as values.
