use std::ffi::OsString;

use clap::CommandFactory;

use super::parse::run_alone;
use super::*;
use std::io::Write;

fn parse_words(words: &str) -> Result<Parsed, String> {
    let args = ["drupe"].into_iter().chain(words.split_whitespace());
    parse(args.map(OsString::from)).map_err(|e| e.to_string())
}

fn boot(words: &str) -> Result<VmConfig, String> {
    match parse_words(&format!("boot {words}"))? {
        Parsed::Run(cli) => match cli.command {
            Command::Boot(args) => config(&args).map_err(|e| e.to_string()),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn json(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn a_command_s_options_leave_its_description_alone() {
    let before = Cli::command();
    let mut all = Cli::command();
    all.build();
    assert!(before.get_subcommands().count() > 20);
    for command in before.get_subcommands() {
        let built = all.find_subcommand(command.get_name()).unwrap();
        let texts = [command, built].map(|c| c.get_about().unwrap().to_string());
        assert_eq!(texts[0], texts[1]);
    }
}

#[test]
fn the_letter_of_verbose_may_be_a_volumes() {
    let parse = |line: &str| Cli::try_parse_from(line.split_whitespace()).unwrap();
    assert!(parse("drupe -v ps").verbose && parse("drupe ps -v").verbose);
    for command in ["run", "create"] {
        let line = format!("drupe {command} -v /a:/b");
        assert!(!parse(&format!("{line} image")).verbose);
        assert!(parse(&format!("{line} --verbose image")).verbose);
    }
    assert!(!parse("drupe rm -v name").verbose);
    assert!(parse("drupe rm -v --verbose name").verbose);
}

/// The words of a command line, the program's name first.
fn words(line: &str) -> Vec<OsString> {
    let words = ["drupe"].into_iter().chain(line.split_whitespace());
    words.map(OsString::from).collect()
}

#[test]
fn run_is_read_alone_as_among_all_commands() {
    for line in [
        "run image",
        "run --rm --network none image true -x --rm",
        "run --verbose -it -e A=b -v /a:/b --memory 1G -p 80:80 image -- sh -c x",
        "run --name x --entrypoint= --stop-timeout 3 --read-only image",
    ] {
        let words = words(line);
        let among = Cli::try_parse_from(&words).map(|cli| format!("{cli:?}"));
        let alone = run_alone(&words).map(|cli| format!("{cli:?}"));
        assert_eq!(alone, Some(among.unwrap()), "{line}");
    }
    for line in [
        "run",
        "run --help",
        "run --nonsense x",
        "-v run x",
        "ps",
        "",
    ] {
        let words = words(line);
        assert!(run_alone(&words).is_none(), "{line}");
    }
}

#[test]
fn flags_alone_make_a_vm() {
    assert_eq!(boot("--kernel k").unwrap(), VmConfig::new("k"));
    let config = boot(
        "--kernel k --initrd i --cpus 4 --memory 2G --append -x --console off \
         --boot-protocol pvh --hugepages --shared-memory --nested",
    )
    .unwrap();
    let expected = VmConfig {
        initrd: Some("i".into()),
        cpus: 4,
        memory: ByteSize(2 << 30),
        append: "-x".into(),
        console: Console::Off,
        boot_protocol: BootProtocol::Pvh,
        hugepages: true,
        shared_memory: true,
        nested: true,
        ..VmConfig::new("k")
    };
    assert_eq!(config, expected);
}

#[test]
fn flags_override_the_file() {
    let file = json(
        r#"{"kernel": "k", "memory": "2G", "cpus": 4, "append": "a",
        "disks": [{"path": "a.img"}], "nets": [{"tap": "tap0"}],
        "shares": [{"path": "/a", "tag": "a"}]}"#,
    );
    let path = file.path().display();
    let config = boot(&format!(
        "--config {path} --cpus 2 --append b --vsock s --disk b.img,readonly --net tap=tap1 --share /b,tag=b,readonly"
    ))
    .unwrap();
    let disks: Vec<_> = config
        .disks
        .iter()
        .map(|d| (d.path.to_str(), d.readonly))
        .collect();
    assert_eq!(disks, [(Some("a.img"), false), (Some("b.img"), true)]);
    assert_eq!(config.vsock, Some("s".parse().unwrap()));
    let tags: Vec<_> = config.shares.iter().map(|s| s.tag.as_str()).collect();
    assert_eq!(tags, ["a", "b"]);
    assert!(config.shares[1].readonly && !config.shares[0].readonly);
    let taps = ["tap=tap0", "tap=tap1"].map(|tap| tap.parse().unwrap());
    assert_eq!(config.nets, taps);
    assert_eq!(config.memory, ByteSize(2 << 30));
    assert_eq!(config.cpus, 2);
    assert_eq!(config.append, "b");
    assert_eq!(config.kernel, Path::new("k"));
    let config = boot(&format!("--kernel other --config {path}")).unwrap();
    assert_eq!(config.kernel, Path::new("other"));
}

#[test]
fn the_kernel_may_come_from_the_flag_alone() {
    let file = json(r#"{"cpus": 4}"#);
    let path = file.path().display();
    assert_eq!(
        boot(&format!("--config {path} --kernel k")).unwrap().cpus,
        4
    );
    let error = boot(&format!("--config {path}")).unwrap_err();
    assert!(
        error.starts_with("no kernel: give --kernel FILE"),
        "{error}"
    );
}

#[test]
fn a_bad_file_is_named() {
    for (text, expected) in [
        ("", "EOF while parsing"),
        ("[]", "expected an object"),
        ("{\"kernel\": \"\"}", "no kernel: give"),
        ("{\"kernel\": \"k\", \"cpu\": 1}", "unknown field `cpu`"),
        (
            "{\"kernel\": \"k\", \"memory\": \"lots\"}",
            "'lots' is not a size",
        ),
        ("{\"kernel\": 1}", "invalid type"),
        (
            "{\"kernel\": \"k\", \"cpus\": 1, \"cpus\": 2}",
            "duplicate field",
        ),
    ] {
        let file = json(text);
        let path = file.path().display().to_string();
        let error = boot(&format!("--config {path}")).unwrap_err();
        assert!(error.contains(&path) && error.contains(expected), "{error}");
    }
    // Also where the kernel comes from the command line.
    let file = json("{\"cpus\": 1, \"cpus\": 2}");
    let error = boot(&format!("--kernel k --config {}", file.path().display())).unwrap_err();
    assert!(error.contains("duplicate field"), "{error}");
    let error = boot("--config /").unwrap_err();
    assert!(error.contains("--config /: Is a directory"), "{error}");
    let error = boot("--config /dev/zero").unwrap_err();
    assert!(error.contains("longer than"), "{error}");
}

#[test]
fn what_no_vm_can_have_is_refused() {
    for (words, expected) in [
        ("--kernel k --cpus 0", "give a number from 1 to 32"),
        ("--kernel k --cpus 256", "give a number from 1 to 32"),
        ("--kernel k --disk d --disk d", "is given twice"),
        ("--kernel k --disk d,queues=99999", "from 1 to 16"),
        ("--kernel=", "'--kernel <FILE>'"),
        ("--kernel k --memory 1X", "'1X' is not a size"),
        ("--kernel k --memory 4K", "memory: 4K is out of range"),
        ("--kernel k --console maybe", "[possible values: on, off]"),
        (
            "--kernel k --stop-timeout 86401",
            "'--stop-timeout <SECONDS>'",
        ),
        ("--kernel k --kernel k", "cannot be used multiple times"),
        ("--kernel k --disk", "--disk"),
        ("--kernel k --disk a,redonly", "unknown option 'redonly'"),
        ("--kernel k --net mac=1", "net: "),
        ("--kernel k --share /a", "share: tag: is missing"),
        ("--kernel k --vsock s,cid=1", "cid"),
        ("--kernal k", "(perhaps '--kernel')"),
        ("", "--kernel <FILE>"),
    ] {
        let error = boot(words).unwrap_err();
        assert!(error.contains(expected), "{words}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn errors_point_at_the_right_help() {
    for (words, help) in [
        ("", "drupe --help"),
        ("bot", "drupe --help"),
        ("boot --what", "drupe boot --help"),
        ("kernel", "drupe kernel --help"),
        ("kernel build --what", "drupe kernel build --help"),
        ("doctor --check all", "drupe doctor --help"),
        ("-v boot --cpus 0", "drupe boot --help"),
        ("boot --kernel k --disk a,queues=0", "drupe boot --help"),
        ("--what boot", "drupe --help"),
    ] {
        let error = parse_words(words).unwrap_err();
        assert!(
            error.ends_with(&format!("see '{help}'")),
            "{words}: {error}"
        );
    }
}

#[test]
fn help_is_complete() {
    for words in ["--help", "boot --help", "doctor --help", "kernel --help"] {
        match parse_words(words).unwrap() {
            Parsed::Print(text) => assert!(text.contains("Examples:\n  drupe "), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    match parse_words("boot --help").unwrap() {
        Parsed::Print(text) => assert!(text.contains(exit::HELP), "{text}"),
        other => panic!("{other:?}"),
    }
}
