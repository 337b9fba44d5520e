//! Names of images, as Docker's tools take and complete them
//! (`github.com/distribution/reference` is the grammar's home).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::Digest;

/// The longest name without tag and digest, in bytes.
const MAX_NAME: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_PATH: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// A complete name: `DOMAIN/PATH`, with a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// This is no name of an image.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("'{name}' is not an image name: {what}")]
pub struct ReferenceError {
    name: String,
    what: &'static str,
}

impl Reference {
    /// The registry's host, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of a manifest or an index.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `DOMAIN/PATH`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The repository as people write it: `debian` for
    /// `docker.io/library/debian`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(DEFAULT_PATH) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The name as people write it.
    pub fn familiar(&self) -> String {
        self.familiar_repository() + &self.suffix()
    }

    /// What a name without a domain may stand for: Docker's registry, and what
    /// podman and buildah call images that they made.
    pub fn candidates(text: &str) -> Result<Vec<Self>, ReferenceError> {
        let reference: Reference = text.parse()?;
        let mut candidates = vec![reference.clone()];
        if reference.domain == DEFAULT_DOMAIN && !has_domain(text) {
            candidates.push(Reference {
                domain: "localhost".into(),
                path: text_path(text).to_owned(),
                ..reference
            });
        }
        Ok(candidates)
    }

    fn suffix(&self) -> String {
        let mut suffix = String::new();
        if let Some(tag) = &self.tag {
            suffix += &format!(":{tag}");
        }
        if let Some(digest) = &self.digest {
            suffix += &format!("@{digest}");
        }
        suffix
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", self.repository(), self.suffix())
    }
}

/// A name's parts as they are written: name, tag, digest.
fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before a slash is that of a port.
    match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag), digest),
        _ => (rest, None, digest),
    }
}

fn text_path(text: &str) -> &str {
    split(text).0
}

fn has_domain(text: &str) -> bool {
    split(text)
        .0
        .split_once('/')
        .is_some_and(|(first, _)| is_domain(first))
}

fn is_domain(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let error = |what| ReferenceError {
            name: text.chars().take(300).collect(),
            what,
        };
        let (name, tag, digest) = split(text);
        let (domain, path) = match name.split_once('/') {
            Some((first, rest)) if is_domain(first) => (first, rest.to_owned()),
            _ => (DEFAULT_DOMAIN, name.to_owned()),
        };
        let domain = match domain {
            "index.docker.io" => DEFAULT_DOMAIN,
            other => other,
        };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{DEFAULT_PATH}{path}")
        } else {
            path
        };
        if Digest::from_hex(name).is_some() {
            return Err(error("64 hexadecimal digits are an image's ID"));
        }
        if !valid_domain(domain) {
            return Err(error(
                "the registry is not a host name with an optional port",
            ));
        }
        if !path.split('/').all(valid_component) {
            return Err(error(
                "a repository has lower-case letters and digits, joined by '.', '_', '-' or '/'",
            ));
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(error("it is longer than 255 characters"));
        }
        if !tag.is_none_or(valid_tag) {
            return Err(error(
                "a tag has letters, digits, '_', '.' and '-', up to 128",
            ));
        }
        let digest = match digest {
            Some(digest) => Some(
                digest
                    .parse()
                    .map_err(|_| error("the digest must be sha256: and 64 hexadecimal digits"))?,
            ),
            None => None,
        };
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Reference {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

fn valid_domain(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        // An IPv6 address.
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(valid_port));
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(valid_port)
}

fn valid_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// Letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn valid_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes.split(|b| alphanumeric(*b)).all(|joint| {
            matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-')
        })
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_shortened() {
        let digest = Digest::of(b"x");
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            (
                "docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("a/b:c", "docker.io/a/b:c", "a/b:c"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            (
                "localhost:5000/a",
                "localhost:5000/a:latest",
                "localhost:5000/a:latest",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("quay.io/a/b/c:v1", "quay.io/a/b/c:v1", "quay.io/a/b/c:v1"),
            (
                "a__b/c-d.e--f",
                "docker.io/a__b/c-d.e--f:latest",
                "a__b/c-d.e--f:latest",
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(full.parse(), Ok(reference));
        }
        let pinned: Reference = format!("debian:12@{digest}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (Some("12"), Some(digest)));
        let pinned: Reference = format!("debian@{digest}").parse().unwrap();
        assert_eq!(pinned.tag(), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(300);
        let id = Digest::of(b"").hex();
        for text in [
            "",
            ":",
            "a:",
            "A",
            "a b",
            "-a",
            "a-",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "a:b c",
            "a@sha256:00",
            "a@",
            "ex_ample.com/a",
            "a.b:x/c",
            "[::1/a",
            "a/../b",
            "a\n",
            &long,
            &id,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn short_names_are_looked_for_where_podman_puts_them() {
        let names = |text| -> Vec<String> {
            let candidates = Reference::candidates(text).unwrap();
            candidates.iter().map(Reference::to_string).collect()
        };
        assert_eq!(
            names("a"),
            ["docker.io/library/a:latest", "localhost/a:latest"]
        );
        assert_eq!(names("a/b:c"), ["docker.io/a/b:c", "localhost/a/b:c"]);
        assert_eq!(names("docker.io/a"), ["docker.io/library/a:latest"]);
        assert_eq!(names("localhost/a"), ["localhost/a:latest"]);
    }
}
