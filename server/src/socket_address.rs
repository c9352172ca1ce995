//! Addresses to listen at on the command line: 0.0.0.0:7070.

use std::net::SocketAddr;

/// An address and a port; a name is none.
///
/// # Errors
/// What was expected and what came.
pub fn parse(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("expected an IP address and a port such as 0.0.0.0:7070 or [::]:0, found {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_no_name() {
        for (text, port) in [("0.0.0.0:7070", 7070), ("[::]:0", 0)] {
            assert_eq!(parse(text).map(|address| address.port()), Ok(port), "{text}");
        }
        for wrong in ["", "localhost:7070", "7070", ":7070", "0.0.0.0", "0.0.0.0:65536", "http://0.0.0.0:7070"] {
            assert!(parse(wrong).is_err_and(|error| error.contains("0.0.0.0:7070")), "{wrong}");
        }
    }
}
