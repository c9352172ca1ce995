//! Which URLs of peers are spoken to.

/// Refuses every scheme but http and unix: the transport would speak another as http, in the clear where the URL asks for
/// TLS.
///
/// # Errors
/// What is spoken.
pub fn check_scheme(url: &str) -> Result<(), &'static str> {
    match url.starts_with("http://") || url.starts_with("unix://") {
        true => Ok(()),
        false => Err("only http:// and unix:// are spoken"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_tls_or_names_no_scheme_is_not_spoken_to() {
        for spoken in ["http://a:1", "http://[::1]:1", "unix:///a/b"] {
            assert_eq!(check_scheme(spoken), Ok(()), "{spoken}");
        }
        for other in ["https://a:1", "HTTPS://a:1", "a:1", "", "unix:/a"] {
            assert!(check_scheme(other).is_err(), "{other}");
        }
    }
}
