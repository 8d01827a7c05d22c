//! OAuth 1.0 with the PLAINTEXT method, the only one that Launchpad takes: the secrets themselves are the
//! signature, so they go out over TLS alone (see the check of `url`).

use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::credentials::Credentials;
use crate::clock::now_unix_ms;
use crate::identity::{IdentityError, new_boot_id};

/// RFC 5849, 3.6: everything but letters, digits, `-`, `.`, `_` and `~`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The `Authorization` of one request; each has its own nonce. It never shows in `Debug`.
pub(super) fn authorization(
    credentials: &Credentials,
    realm: &str,
) -> Result<HeaderValue, IdentityError> {
    // As many random digits as a boot's id has.
    Ok(header(
        credentials,
        realm,
        now_unix_ms() / 1000,
        &new_boot_id()?,
    ))
}

fn header(credentials: &Credentials, realm: &str, seconds: i64, nonce: &str) -> HeaderValue {
    let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
    let signature = format!(
        "{}&{}",
        encoded(&credentials.consumer_secret),
        encoded(&credentials.token_secret)
    );
    let fields = [
        ("oauth_consumer_key", credentials.consumer_key.as_str()),
        ("oauth_token", &credentials.token),
        ("oauth_signature_method", "PLAINTEXT"),
        ("oauth_signature", &signature),
        ("oauth_timestamp", &seconds.to_string()),
        ("oauth_nonce", nonce),
        ("oauth_version", "1.0"),
    ];
    let mut text = format!("OAuth realm=\"{realm}\"");
    for (name, value) in fields {
        text.push_str(&format!(", {name}=\"{}\"", encoded(value)));
    }
    #[expect(
        clippy::expect_used,
        reason = "every value is encoded into visible ASCII, and so is a URL"
    )]
    let mut value = HeaderValue::from_str(&text).expect("visible ASCII");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_rfc_5849s_for_plaintext_and_hides_itself() {
        let credentials = Credentials {
            consumer_key: "rack 1".into(),
            consumer_secret: String::new(),
            token: "tok/en".into(),
            token_secret: "s&é".into(),
        };
        let value = header(
            &credentials,
            "https://api.launchpad.net/",
            1_700_000_000,
            "0a0b",
        );
        assert_eq!(
            value.to_str().unwrap(),
            "OAuth realm=\"https://api.launchpad.net/\", oauth_consumer_key=\"rack%201\", oauth_token=\"tok%2Fen\", \
             oauth_signature_method=\"PLAINTEXT\", oauth_signature=\"%26s%2526%25C3%25A9\", \
             oauth_timestamp=\"1700000000\", oauth_nonce=\"0a0b\", oauth_version=\"1.0\""
        );
        assert_eq!(format!("{value:?}"), "Sensitive");
        let two = [(); 2].map(|()| authorization(&credentials, "").unwrap());
        assert_ne!(two[0], two[1], "each request has its own nonce");
    }
}
