//! Settings: file, environment and flags become one Config.
