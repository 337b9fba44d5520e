//! An image from the tar of a root file system, with a config by instructions.

use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::archive::Input;
use crate::compress::decompressed;
use crate::digest::HashingReader;
use crate::oci::{ContainerConfig, History, ImageConfig, RootFs};
use crate::progress::Progress;
use crate::store::{Job, NewImage, SpoolError};
use crate::time::rfc3339;
use crate::{Digest, Error, Platform, Reference, Store};

/// What [`Store::import`] makes an image of.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    /// The tar, compressed or not.
    pub from: &'a Input,
    /// The image's name.
    pub name: Option<&'a Reference>,
    /// What the image says about how it runs; see [`ContainerConfig::change`].
    pub config: ContainerConfig,
    /// A comment in its history.
    pub message: Option<String>,
    /// What it runs on; this machine's unless given.
    pub platform: Option<Platform>,
}

impl Store {
    /// Makes an image of one layer from the tar of a root file system.
    ///
    /// # Errors
    /// [`Error`].
    pub fn import(&self, import: &Import, progress: Progress) -> Result<Digest, Error> {
        let failed = |source| Error::Archive {
            path: import.from.path().to_owned(),
            source,
        };
        // The config says the layer's digest, so the tar is read twice.
        let (path, copy) = match import.from {
            Input::Path(path) => (path.clone(), None),
            Input::Stdin => {
                let mut copy = self.temporary()?;
                self.spool(&mut io::stdin(), &mut copy)
                    .map_err(|e| match e {
                        SpoolError::Read(source) => failed(source),
                        SpoolError::Store(e) => e,
                    })?;
                (copy.path().to_owned(), Some(copy))
            }
        };
        let diff_id = {
            let file = File::open(&path).map_err(failed)?;
            let mut plain = HashingReader::new(decompressed(file).map_err(failed)?);
            // What makes the tar may have failed, at the other end of a pipe.
            if io::copy(&mut plain, &mut io::sink()).map_err(failed)? == 0 {
                let why = "empty: give the tar of a root file system";
                return Err(Error::ArchiveFormat {
                    path: import.from.path().to_owned(),
                    why: why.into(),
                });
            }
            plain.finish().0
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let created = rfc3339(now.map_or(0, |t| t.as_secs()));
        let platform = import.platform.clone().unwrap_or_else(Platform::host);
        let comment = match &import.message {
            Some(message) => message.clone(),
            None => format!("Imported from {}", import.from.path().display()),
        };
        let config = ImageConfig {
            created: Some(created.clone()),
            author: None,
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            config: import.config.clone(),
            rootfs: RootFs {
                kind: "layers".into(),
                diff_ids: vec![diff_id],
            },
            history: vec![History {
                created: Some(created),
                comment: Some(comment),
                ..History::default()
            }],
        };
        let config = serde_json::to_vec(&config).map_err(|e| Error::document("the config", e))?;
        let names: Vec<Reference> = import.name.into_iter().cloned().collect();
        let image = NewImage {
            config: &config,
            layers: vec![Job {
                diff_id,
                blob: None,
                open: Box::new(move || {
                    let file = File::open(&path);
                    Ok(Box::new(
                        file.map_err(|source| Error::Archive { path, source })?,
                    ))
                }),
            }],
            names: &names,
        };
        let id = self.add(image, progress);
        drop(copy);
        // The layer's digest was made here: nobody knows it.
        id.map_err(|error| match error {
            Error::Layer { source, .. } if source.io().is_none() => Error::ArchiveFormat {
                path: import.from.path().to_owned(),
                why: source.to_string(),
            },
            error => error,
        })
    }
}

impl ContainerConfig {
    /// Applies an instruction as Dockerfiles have it: `CMD`, `ENTRYPOINT`, `ENV`,
    /// `EXPOSE`, `LABEL`, `STOPSIGNAL`, `USER`, `VOLUME` or `WORKDIR`.
    ///
    /// # Errors
    /// [`Error::Change`].
    pub fn change(&mut self, instruction: &str) -> Result<(), Error> {
        let bad = || Error::Change(instruction.chars().take(200).collect());
        let text = instruction.trim();
        // Docker takes `CMD=...` as well.
        let (name, value) = text
            .split_once(|c: char| c.is_whitespace() || c == '=')
            .ok_or_else(bad)?;
        let value = value.trim();
        if value.is_empty() {
            return Err(bad());
        }
        match name.to_ascii_uppercase().as_str() {
            "CMD" => self.cmd = Some(command(value)),
            "ENTRYPOINT" => {
                self.entrypoint = Some(command(value));
                self.cmd = None;
            }
            "ENV" => {
                for (name, value) in pairs(value).ok_or_else(bad)? {
                    let prefix = format!("{name}=");
                    self.env.retain(|e| !e.starts_with(&prefix));
                    self.env.push(prefix + &value);
                }
            }
            "LABEL" => self.labels.extend(pairs(value).ok_or_else(bad)?),
            "EXPOSE" => {
                for port in words(value).ok_or_else(bad)? {
                    let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
                    let number: u16 = number.parse().map_err(|_| bad())?;
                    if !["tcp", "udp", "sctp"].contains(&protocol) {
                        return Err(bad());
                    }
                    add(&mut self.exposed_ports, format!("{number}/{protocol}"));
                }
            }
            "VOLUME" => {
                for volume in list(value).or_else(|| words(value)).ok_or_else(bad)? {
                    add(&mut self.volumes, volume);
                }
            }
            "STOPSIGNAL" => self.stop_signal = Some(value.to_owned()),
            "USER" => self.user = value.to_owned(),
            "WORKDIR" => {
                self.working_dir = if value.starts_with('/') {
                    value.to_owned()
                } else {
                    format!("{}/{value}", self.working_dir.trim_end_matches('/'))
                };
            }
            _ => return Err(bad()),
        }
        Ok(())
    }
}

fn add(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// A list in JSON is a command as it stands; other text is for a shell.
fn command(value: &str) -> Vec<String> {
    list(value).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), value.into()])
}

fn list(value: &str) -> Option<Vec<String>> {
    serde_json::from_str(value).ok()
}

/// `NAME=VALUE` pairs, or one as `NAME VALUE`.
fn pairs(value: &str) -> Option<Vec<(String, String)>> {
    let words = words(value)?;
    let pair = |word: &String| {
        let (name, value) = word.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    match words.iter().map(pair).collect() {
        Some(pairs) => Some(pairs),
        None if !words.first()?.contains('=') => {
            let (name, value) = value.split_once(char::is_whitespace)?;
            Some(vec![(name.to_owned(), value.trim().to_owned())])
        }
        None => None,
    }
}

/// Words as Dockerfiles have them: quotes hold them together, a backslash takes
/// the next character as it is. `None` when a quote is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quote != Some('\'') => word.get_or_insert_default().push(chars.next()?),
            c if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> ContainerConfig {
        let mut config = ContainerConfig::default();
        for change in changes {
            config.change(change).unwrap();
        }
        config
    }

    #[test]
    fn instructions_do_what_they_do_in_a_dockerfile() {
        let config = changed(&[
            r#"cmd ["a", "b c"]"#,
            "ENV A=1 B=\"two words\" C=x\\ y",
            "ENV A 3 and more",
            "ENTRYPOINT exec it",
            "EXPOSE 80 53/udp 80/tcp",
            "LABEL a.b='c d' e=",
            "VOLUME /x /y",
            r#"VOLUME ["/x", "/z z"]"#,
            "USER 1:2",
            "WORKDIR /a/",
            "WORKDIR b",
            "STOPSIGNAL SIGINT",
        ]);
        assert_eq!(config.cmd, None);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec it"]);
        assert_eq!(config.env, ["B=two words", "C=x y", "A=3 and more"]);
        assert_eq!(config.exposed_ports, ["80/tcp", "53/udp"]);
        assert_eq!(config.labels["a.b"], "c d");
        assert_eq!(config.labels["e"], "");
        assert_eq!(config.volumes, ["/x", "/y", "/z z"]);
        assert_eq!((&*config.user, &*config.working_dir), ("1:2", "/a/b"));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(changed(&[r#"CMD=["x"]"#]).cmd.unwrap(), ["x"]);
        // Blanks of more than one byte are blanks, too.
        assert_eq!(changed(&["USER\u{85}me"]).user, "me");
        assert_eq!(changed(&["USER\u{3000}me"]).user, "me");
    }

    #[test]
    fn what_is_no_instruction_is_refused() {
        for bad in [
            "",
            "CMD",
            "CMD ",
            "RUN x",
            "ENV =x",
            "ENV A=1 B",
            "ENV A=\"x",
            "EXPOSE x",
            "EXPOSE 1/x",
        ] {
            assert!(ContainerConfig::default().change(bad).is_err(), "{bad}");
        }
    }
}
