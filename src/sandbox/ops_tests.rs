//! Sandboxes that are ended, and what is left of them.

use super::*;
use crate::sandbox::id::Id;
use crate::sandbox::spec::tests::spec;

#[test]
fn a_volume_says_itself_that_it_was_made_for_one_sandbox() {
    use crate::sandbox::spec::{Mount, Source};
    use crate::sandbox::volumes::Volumes;
    use vmm::config::ByteSize;

    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    let mut spec = spec("");
    for (name, anonymous) in [("data", false), ("0123", true)] {
        let size = ByteSize(64 << 20);
        volumes
            .create(name, size, Default::default(), anonymous)
            .unwrap();
        spec.mounts.push(Mount {
            // Whatever the sandbox says.
            source: Source::Volume {
                name: name.into(),
                anonymous: true,
                populate: false,
            },
            target: "/x".into(),
            read_only: false,
        });
    }
    monitor::remove_anonymous_volumes(dir.path(), &spec);
    assert!(volumes.find("data").is_ok() && volumes.find("0123").is_err());
}

#[test]
fn a_guest_that_does_not_come_up_is_explained_before_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().to_owned());
    let sandbox = store
        .create(Id::random().unwrap(), &mut spec(""), Some("web"))
        .unwrap();
    let failure = |message: &str| Failure {
        message: message.to_owned(),
        status: 125,
    };
    let silent = failure("the guest did not come up: it was stopped");
    let (told, said) = not_up(&sandbox, true, silent.clone());
    assert!(told.message.contains("'drupe doctor'") && said.is_empty());
    let advised = failure("the guest did not come up: no such instruction, see `drupe doctor`");
    let (told, _) = not_up(&sandbox, true, advised);
    assert!(
        told.message
            .ends_with("`drupe doctor`: its kernel said nothing")
    );

    let text: String = (0..30).map(|n| format!("line {n}\r\n\n")).collect();
    std::fs::write(sandbox.path(monitor::CONSOLE), text).unwrap();
    let (told, said) = not_up(&sandbox, true, silent.clone());
    assert!(told.message.ends_with("stands above"), "{}", told.message);
    assert_eq!((said.len(), said[9].as_str()), (LAST_LINES, "line 29"));
    let (told, _) = not_up(&sandbox, false, silent);
    assert!(told.message.contains("'drupe logs --console web'"));

    let other = failure("no such file");
    let (told, said) = not_up(&sandbox, true, other.clone());
    assert!(told.message == other.message && said.is_empty());
}
