//! Errors as people read them: with what lies beneath.

use std::error::Error;

/// An error and everything beneath it, outermost first, without repetitions: tonic says only "transport error" by
/// itself.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::causes;

    #[derive(Debug, Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn an_error_is_told_with_its_causes_each_once() {
        let deepest = Layer("connection refused", None);
        let repeated = Layer("connection refused", Some(Box::new(deepest)));
        let outermost = Layer("transport error", Some(Box::new(repeated)));
        assert_eq!(causes(&outermost), "transport error: connection refused");
    }
}
