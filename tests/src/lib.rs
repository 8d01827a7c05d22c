//! Whole-rack tests.
