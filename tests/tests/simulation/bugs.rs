//! The simulator is able to fail: bugs planted in the product, each found by some seed among few.
