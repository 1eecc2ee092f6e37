//! Floor 2a, the virtual driver.
