//! TLS in which both sides know the other's one certificate: the link between the master and a boot.
//!
//! A peer is accepted if and only if its end-entity certificate is, byte for byte, the one that is
//! expected, and it proves in the TLS 1.3 handshake that it holds the key. Names and validity dates
//! mean nothing here: boards have no clock, and a certificate lives as long as one boot. Sessions
//! are never resumed, so every connection is such a proof.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    RootCertStore, ServerConfig, SignatureScheme,
};

/// Which client certificates (DER) a server accepts. Asked once a connection: a handler that must
/// refuse a boot that has ended meanwhile asks again with [`crate::Peer::certificate`].
pub type Accepts = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A certificate with its private key. `Debug` does not show the key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Why an identity or a certificate cannot be used. It quotes nothing.
#[derive(Debug, thiserror::Error)]
pub enum PinnedError {
    /// No certificate in the PEM text.
    #[error("there is no PEM certificate where one is expected")]
    Certificate,
    /// No private key in the PEM text.
    #[error("there is no PEM private key where one is expected")]
    Key,
    /// The key does not fit the certificate, or is of a kind that TLS 1.3 cannot use.
    #[error("the certificate and its key cannot be used for TLS 1.3: {0}")]
    Unusable(#[source] Error),
}

impl Identity {
    /// From the PEM texts of the certificate and its key.
    ///
    /// # Errors
    /// A text that holds no such thing.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, PinnedError> {
        let certificate = certificate_from_pem(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| PinnedError::Key)?;
        Ok(Self { certificate, key })
    }

    /// The certificate: what the other side pins.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// The first certificate in a PEM text.
///
/// # Errors
/// A text without one.
pub fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>, PinnedError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| PinnedError::Certificate)
}

/// A client that shows `own` and accepts only the server whose certificate is `peer`.
///
/// # Errors
/// [`PinnedError::Unusable`].
pub fn client_config(
    own: &Identity,
    peer: CertificateDer<'static>,
) -> Result<ClientConfig, PinnedError> {
    let provider = board_provider();
    let verifier = PinnedServer {
        peer,
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PinnedError::Unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![own.certificate.clone()], own.key.clone_key())
        .map_err(PinnedError::Unusable)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A server that shows `own` and accepts only clients whose certificate `accepts` knows.
///
/// # Errors
/// [`PinnedError::Unusable`].
pub fn server_config(own: &Identity, accepts: Accepts) -> Result<Arc<ServerConfig>, PinnedError> {
    let provider = board_provider();
    let verifier = KnownClients {
        accepts,
        provider: provider.clone(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PinnedError::Unusable)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![own.certificate.clone()], own.key.clone_key())
        .map_err(PinnedError::Unusable)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client that knows the authorities of the host's own certificate store, for `https:` addresses
/// of archives and of Launchpad. A host without a store gets a client that trusts no server.
///
/// # Errors
/// [`PinnedError::Unusable`].
pub fn public_client_config() -> Result<ClientConfig, PinnedError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        tracing::warn!(
            "no certificate authorities found: https downloads will fail; install ca-certificates"
        );
    }
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(PinnedError::Unusable)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// For the links with boards, which have no AES instructions: what they are quick at comes first. Servers take the
/// first of the client's that they know.
fn board_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    Arc::new(provider)
}

fn refused() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Neither side offers TLS 1.2, so its signatures are never asked for.
fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken on a pinned connection".to_owned())
}

#[derive(Debug)]
struct PinnedServer {
    peer: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.peer {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

struct KnownClients {
    accepts: Accepts,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for KnownClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownClients").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for KnownClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if (self.accepts)(end_entity) {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(refused())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_processor_without_aes_instructions_is_quick_at_is_asked_for_first() {
        let first = board_provider().cipher_suites[0].suite();
        assert_eq!(first, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        let all = board_provider().cipher_suites.len();
        assert_eq!(all, provider().cipher_suites.len());
    }
}
