//! Requests to one registry about one repository.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use super::auth::{authorize, challenge};
use crate::oci::{Descriptor, MANIFEST_TYPES, MAX_DOCUMENT};
use crate::{Digest, Error, Reference};

/// How long a connection may take, and an answer to begin.
const CONNECT: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(60);
/// How long a body may stand still.
const IDLE: Duration = Duration::from_secs(60);
/// Other servers that an answer may lead to, one after another.
const MAX_REDIRECTS: u32 = 5;
/// Attempts at a small request.
const ATTEMPTS: u32 = 4;

/// A registry's client.
pub struct Client {
    agent: Agent,
    name: Reference,
    base: String,
    plain: bool,
    authorization: Mutex<Option<String>>,
    resumed: Mutex<BTreeSet<Digest>>,
}

impl Client {
    /// A client for the registry of `name`. A registry on the loopback interface
    /// is asked whether it speaks plain HTTP.
    pub fn new(name: &Reference) -> Result<Self, Error> {
        let host = match name.domain() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let plain = is_loopback(host) && speaks_http(host);
        let scheme = if plain { "http" } else { "https" };
        Ok(Client {
            agent: agent(!plain, is_loopback(host)),
            name: name.clone(),
            base: format!("{scheme}://{host}/v2/{}", name.path()),
            plain,
            authorization: Mutex::new(None),
            resumed: Mutex::new(BTreeSet::new()),
        })
    }

    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The registry's name, which credentials are kept under.
    pub fn registry(&self) -> &str {
        self.name.domain()
    }

    pub fn repository(&self) -> &str {
        self.name.path()
    }

    /// Whether a token may be asked for at this address.
    pub fn may_ask(&self, realm: &str) -> bool {
        let host = |rest: &str| {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            is_loopback(authority)
        };
        realm.starts_with("https://")
            || (self.plain && realm.strip_prefix("http://").is_some_and(host))
    }

    /// The bytes of a manifest or an index, by tag or digest.
    pub fn manifest(&self, tag: &str) -> Result<Vec<u8>, Error> {
        let answer = self.get(&format!("manifests/{tag}"), Some(MANIFEST_TYPES))?;
        let announced = answer
            .headers()
            .get("Docker-Content-Digest")
            .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        let body = read_bounded(answer, MAX_DOCUMENT).map_err(|why| self.error(why))?;
        super::check("the manifest", announced, Digest::of(&body))?;
        Ok(body)
    }

    /// The bytes of a small blob.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let answer = self.get(&format!("blobs/{}", descriptor.digest), None)?;
        read_bounded(answer, MAX_DOCUMENT).map_err(|why| self.error(why))
    }

    /// A blob from a byte on. The status tells whether the registry did that.
    pub fn blob(&self, digest: Digest, from: u64) -> Result<Response<Body>, Error> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        if from > 0 {
            lock(&self.resumed).insert(digest);
        }
        self.once(&format!("blobs/{digest}"), None, range.as_deref())
            .map_err(|failure| failure.error)
    }

    /// Whether a blob was continued at some byte.
    pub fn resumed(&self, digest: Digest) -> bool {
        lock(&self.resumed).contains(&digest)
    }

    /// A request with a few attempts, as far as those can help.
    fn get(&self, path: &str, accept: Option<&str>) -> Result<Response<Body>, Error> {
        let mut attempt = 1;
        loop {
            match self.once(path, accept, None) {
                Err(failure) if failure.passing && attempt < ATTEMPTS => {
                    std::thread::sleep(pause(attempt));
                    attempt += 1;
                }
                result => return result.map_err(|failure| failure.error),
            }
        }
    }

    fn once(
        &self,
        path: &str,
        accept: Option<&str>,
        range: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        let url = format!("{}/{path}", self.base);
        let send = || {
            let mut request = self.agent.get(&url);
            // Cloned, so that no other download waits for this one.
            let authorization = lock(&self.authorization).clone();
            for (name, value) in [
                ("Authorization", authorization.as_deref()),
                ("Accept", accept),
                ("Range", range),
            ] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            request.call().map_err(|e| Failure {
                passing: !matches!(e, ureq::Error::HostNotFound),
                error: self.error(explain(&e)),
            })
        };
        let lasting = |error| Failure {
            passing: false,
            error,
        };
        let mut answer = send()?;
        if answer.status() == 401 {
            // Also when a token has run out.
            let headers = answer.headers().get_all("WWW-Authenticate").iter();
            let challenge = challenge(headers.filter_map(|value| value.to_str().ok()));
            let challenge = challenge.ok_or_else(|| lasting(self.denied()))?;
            let authorization = authorize(self, &challenge).map_err(lasting)?;
            *lock(&self.authorization) = Some(authorization.ok_or_else(|| lasting(self.denied()))?);
            answer = send()?;
        }
        let status = answer.status().as_u16();
        match status {
            200 | 206 | 416 => Ok(answer),
            401 | 403 => Err(lasting(self.denied())),
            404 => Err(lasting(Error::NotInRegistry {
                name: self.name.familiar(),
                registry: self.registry().to_owned(),
            })),
            429 => Err(Failure {
                passing: true,
                error: self.error("it asks for fewer requests (429): wait, or log in".into()),
            }),
            status => Err(Failure {
                passing: status >= 500,
                error: self.error(format!("it answers {status} to {path}")),
            }),
        }
    }

    pub fn error(&self, why: String) -> Error {
        Error::Registry {
            registry: self.registry().to_owned(),
            why,
        }
    }

    pub fn denied(&self) -> Error {
        Error::Denied {
            name: self.name.familiar(),
            registry: self.registry().to_owned(),
        }
    }
}

/// A request that failed.
struct Failure {
    /// Another attempt may do better.
    passing: bool,
    error: Error,
}

/// What to do about a failure, where that is known.
pub fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(e) => format!("{e}: check the registry's name and the network"),
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
            format!("{error}: check the registry's name and the network")
        }
        ureq::Error::RequireHttpsOnly(_) => {
            "it leads to a server without HTTPS: that is not followed".into()
        }
        other => other.to_string(),
    }
}

/// How long to wait before the next attempt.
pub fn pause(attempt: u32) -> Duration {
    Duration::from_millis(250 << attempt.min(6))
}

/// A body of so many bytes at most.
pub fn read_bounded(answer: Response<Body>, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    answer
        .into_body()
        .into_reader()
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() as u64 > most {
        return Err(format!("an answer longer than {most} bytes"));
    }
    Ok(bytes)
}

fn agent(https_only: bool, loopback: bool) -> Agent {
    // Named here, so that ureq does not bring certificates of its own along.
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    // A proxy has another loopback.
    let proxy = Proxy::try_from_env().filter(|_| !loopback);
    Agent::config_builder()
        .proxy(proxy)
        .http_status_as_error(false)
        .https_only(https_only)
        .max_redirects(MAX_REDIRECTS)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(IDLE))
        .user_agent(concat!("drupe/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build()
        .new_agent()
}

/// Whether a host, with or without a port, is on the loopback interface.
fn is_loopback(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        let address = rest.split(']').next().unwrap_or_default();
        return address.parse() == Ok(Ipv6Addr::LOCALHOST);
    }
    let host = authority.split(':').next().unwrap_or_default();
    host == "localhost"
        || host
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether a server answers plain HTTP as one that means it. One that wants TLS
/// says 400, or nothing that HTTP knows.
fn speaks_http(host: &str) -> bool {
    let answer = agent(false, true).get(format!("http://{host}/v2/")).call();
    match answer {
        Ok(answer) => answer.status() != 400,
        // When nobody is there, the error shall be about what was asked.
        Err(ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound) => true,
        Err(_) => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known() {
        for yes in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:80",
            "127.1.2.3",
            "[::1]:5000",
        ] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in [
            "example.org",
            "localhost.example.org",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0",
            "",
        ] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
