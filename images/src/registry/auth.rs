//! Who one is to a registry: what `docker login` kept, and tokens for it
//! (distribution's "Token Authentication Specification", RFC 6750, RFC 7617).

use base64::Engine;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;

use super::client::{Client, explain, read_bounded};
use crate::Error;

/// The largest answer of a token server, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// How a registry wants to be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    /// With name and password.
    Basic,
    /// With a token from somewhere else.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The first challenge of `WWW-Authenticate` headers that can be answered.
pub fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut found = None;
    for header in headers {
        for challenge in http_auth::parse_challenges(header).ok()? {
            let parameter = |name: &str| {
                let mut parameters = challenge.params.iter();
                let value = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
                value.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                return Some(Challenge::Bearer {
                    realm: parameter("realm")?,
                    service: parameter("service"),
                    scope: parameter("scope"),
                });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

/// What was kept for a registry; none is no error.
pub fn credentials(registry: &str) -> Result<Option<DockerCredential>, Error> {
    use CredentialRetrievalError::*;
    let docker = match registry {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let mut found = docker_credential::get_podman_credential(registry);
    if found.is_err() || std::env::var_os("REGISTRY_AUTH_FILE").is_none() {
        // Docker's own file comes first unless another is named.
        match docker_credential::get_credential(docker) {
            Err(NoCredentialConfigured | ConfigNotFound | ConfigReadError) => {}
            other => found = other,
        }
    }
    match found {
        Ok(credential) => Ok(Some(credential)),
        Err(NoCredentialConfigured | ConfigNotFound | ConfigReadError) => Ok(None),
        // A helper that keeps none for this registry says so and fails.
        Err(HelperFailure { stdout, .. }) if stdout.contains("not found") => Ok(None),
        Err(e) => Err(Error::Credentials {
            registry: registry.to_owned(),
            why: e
                .to_string()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        }),
    }
}

/// The `Authorization` header that answers a challenge; none when there are no
/// credentials for it.
pub fn authorize(client: &Client, challenge: &Challenge) -> Result<Option<String>, Error> {
    let credentials = credentials(client.registry())?;
    match (challenge, credentials) {
        (Challenge::Basic, Some(DockerCredential::UsernamePassword(user, password))) => {
            Ok(Some(basic(&user, &password)))
        }
        (Challenge::Basic, _) => Ok(None),
        (
            Challenge::Bearer {
                realm,
                service,
                scope,
            },
            credentials,
        ) => {
            // Credentials go over a wire that others may read to this machine
            // alone.
            if !client.may_ask(realm) {
                let why = format!("it wants a password sent to {realm}, which is not HTTPS");
                return Err(client.error(why));
            }
            let default = format!("repository:{}:pull", client.repository());
            let scope = scope.as_deref().unwrap_or(&default);
            let service = service.as_deref();
            token(client, realm, service, scope, credentials).map(Some)
        }
    }
}

fn token(
    client: &Client,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    credentials: Option<DockerCredential>,
) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let failed = |why: String| client.error(format!("no token from {realm}: {why}"));
    let service = service.map(|service| ("service", service));
    let answer = match credentials {
        Some(DockerCredential::IdentityToken(token)) => {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", &token),
                ("client_id", "drupe"),
                ("scope", scope),
            ];
            client
                .agent()
                .post(realm)
                .send_form(form.into_iter().chain(service))
        }
        other => {
            let mut request = client.agent().get(realm).query("scope", scope);
            if let Some((key, value)) = service {
                request = request.query(key, value);
            }
            if let Some(DockerCredential::UsernamePassword(user, password)) = other {
                request = request.header("Authorization", basic(&user, &password));
            }
            request.call()
        }
    };
    let answer = answer.map_err(|e| failed(explain(&e)))?;
    match answer.status().as_u16() {
        200 => {}
        401 | 403 => return Err(client.denied()),
        status => return Err(failed(format!("it answers {status}"))),
    }
    let body = read_bounded(answer, MAX_ANSWER).map_err(failed)?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))?;
    let token = answer.token.or(answer.access_token).unwrap_or_default();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(failed("its answer has none".into()));
    }
    Ok(format!("Bearer {token}"))
}

fn basic(user: &str, password: &str) -> String {
    let text = format!("{user}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        let bearer = r#"Bearer realm="https://auth/token",service="a b",scope="repository:x:pull""#;
        let Some(Challenge::Bearer { realm, service, .. }) = challenge([bearer].into_iter()) else {
            panic!()
        };
        assert_eq!(
            (&*realm, service.as_deref()),
            ("https://auth/token", Some("a b"))
        );
        let both = ["Basic realm=\"r\"", bearer];
        assert!(matches!(
            challenge(both.into_iter()),
            Some(Challenge::Bearer { .. })
        ));
        assert_eq!(
            challenge(["basic realm=x"].into_iter()),
            Some(Challenge::Basic)
        );
        for none in ["", "Digest realm=\"x\"", "Bearer", "Bearer realm=\"x"] {
            assert_eq!(challenge([none].into_iter()), None, "{none}");
        }
    }

    #[test]
    fn basic_is_base64() {
        assert_eq!(
            basic("Aladdin", "open sesame"),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
    }
}
