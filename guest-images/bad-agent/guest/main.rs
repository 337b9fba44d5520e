//! An agent that breaks every rule. It listens where the agent does and looks in
//! what it is sent for words; the host name that drupe sets up says how it takes a
//! start, a program's first argument or a path how it takes a request:
//!
//! * host names: `garbage`, `half`, `huge`, `mute`, `drip`, `unasked`, `verbose` (an
//!   answer of an unknown kind with a long name), `shouting` (an error
//!   of a megabyte, with control characters); with any other the sandbox starts;
//! * `flood` as host name: the sandbox's process writes without end, and thousands
//!   of connections go to the host;
//! * a process `garbage`, `half`, `huge`, `drip`, `dripping` (after its start), `unasked`, `exits` (before it started, as
//!   two processes, with no status that there is);
//! * a path that is the name of an archive in [`archive`];
//! * figures and processes that are no numbers, or the largest.

mod archive;
mod vsock;

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

const AGENT_PORT: u32 = 1024;
const READY_PORT: u32 = 1025;

const REPLY: u8 = 2;
const STDOUT: u8 = 4;
const STDERR: u8 = 5;
const EXIT: u8 = 6;

/// How the sandbox is to behave.
static MOOD: Mutex<String> = Mutex::new(String::new());

fn main() {
    let listener = vsock::listen_on(AGENT_PORT);
    let _ready = vsock::connect(READY_PORT);
    loop {
        let stream = vsock::next(&listener);
        thread::spawn(move || {
            let _ = serve(stream);
        });
    }
}

fn frame(to: &mut File, kind: u8, payload: &[u8]) -> std::io::Result<()> {
    to.write_all(&[kind])?;
    to.write_all(&(payload.len() as u32).to_le_bytes())?;
    to.write_all(payload)
}

fn reply(to: &mut File, json: &str) -> std::io::Result<()> {
    frame(to, REPLY, json.as_bytes())
}

/// A frame that is always on its way, and never whole.
fn drip(to: &mut File, kind: u8) -> std::io::Result<()> {
    to.write_all(&[kind, 0, 0, 16, 0])?;
    loop {
        to.write_all(b" ")?;
        thread::sleep(Duration::from_millis(200));
    }
}

/// What breaks the protocol whatever was asked; false for a word that means no
/// such thing.
fn break_off(word: &str, to: &mut File) -> std::io::Result<bool> {
    match word {
        "garbage" => {
            let mut state = 1_u64;
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .take(100_000)
            .collect();
            to.write_all(&bytes)?;
        }
        "half" => to.write_all(&[REPLY, 100, 0, 0, 0, b'"'])?,
        "huge" => {
            to.write_all(&[REPLY, 0xff, 0xff, 0xff, 0xff])?;
            to.write_all(&[b'x'; 100_000])?;
        }
        "drip" => drip(to, REPLY)?,
        "mute" => {}
        "unasked" => {
            reply(
                to,
                r#"{"entry":{"mode":1,"size":18446744073709551615,"link":"x"}}"#,
            )?;
        }
        "verbose" => {
            let text = "x\\u001b".repeat(20_000);
            reply(to, &format!(r#"{{"{text}":1}}"#))?;
        }
        "shouting" => {
            let text = "\\u001b[2J\\n\\u0007\\u202e".repeat(20_000);
            reply(
                to,
                &format!(r#"{{"failed":{{"message":"{text}","status":0}}}}"#),
            )?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn serve(mut stream: File) -> std::io::Result<()> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let len = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload)?;
    let request = String::from_utf8_lossy(&payload).into_owned();
    let mood = || MOOD.lock().unwrap().clone();
    if request.starts_with(r#"{"setup""#) {
        let name = after(&request, r#""hostname":""#).to_owned();
        *MOOD.lock().unwrap() = name.clone();
        if !break_off(&name, &mut stream)? {
            reply(&mut stream, r#""done""#)?;
        }
    } else if request.starts_with(r#"{"start""#) && request.contains(r#""main":true"#) {
        reply(&mut stream, r#"{"started":{"process":1}}"#)?;
        match mood().as_str() {
            "flood" => flood(stream)?,
            _ => {
                frame(&mut stream, STDOUT, b"up\n")?;
                loop {
                    thread::sleep(Duration::from_secs(1000));
                }
            }
        }
    } else if request.starts_with(r#"{"start""#) {
        let program = after(&request, r#""args":[""#).to_owned();
        process(&program, &mut stream)?;
    } else if request.starts_with(r#"{"get-archive""#) {
        let path = after(&request, r#""path":"/"#).to_owned();
        if !break_off(&path, &mut stream)? {
            archive::send(&path, &mut stream)?;
        }
    } else if request.starts_with(r#"{"put-archive""#) || request.starts_with(r#"{"stat""#) {
        let path = after(&request, r#""path":"/"#).to_owned();
        if !break_off(&path, &mut stream)? {
            reply(
                &mut stream,
                r#"{"entry":{"mode":16877,"size":0,"link":null}}"#,
            )?;
        }
    } else if request.starts_with(r#""stats""#) {
        let most = u64::MAX;
        let fields = [
            "cpu_ns",
            "memory",
            "memory_total",
            "pids",
            "block_read",
            "block_written",
            "net_received",
            "net_sent",
        ];
        let fields: Vec<String> = fields.iter().map(|f| format!(r#""{f}":{most}"#)).collect();
        reply(
            &mut stream,
            &format!(r#"{{"stats":{{{}}}}}"#, fields.join(",")),
        )?;
    } else if request.starts_with(r#""processes""#) {
        let line = format!(
            r#"{{"user":"\u001b[31m\n","pid":4294967295,"ppid":4294967295,"cpu_ns":{0},"rss":{0},"started":{0},"tty":"\u0000","command":"{1}"}}"#,
            u64::MAX,
            "x\\u001b]0;x\\u0007".repeat(100)
        );
        reply(&mut stream, &format!(r#"{{"processes":[{line},{line}]}}"#))?;
    }
    // Signals and the power-off are heard, and no more than that.
    Ok(())
}

/// A process beside the sandbox's own.
fn process(program: &str, stream: &mut File) -> std::io::Result<()> {
    if break_off(program, stream)? {
        return Ok(());
    }
    match program {
        // An end before the start, a start twice, and the end of another.
        "exits" => {
            frame(stream, EXIT, br#"{"status":0,"oom_killed":false}"#)?;
            reply(stream, r#"{"started":{"process":4294967295}}"#)
        }
        "no-status" => {
            reply(stream, r#"{"started":{"process":1}}"#)?;
            frame(stream, EXIT, br#"{"status":65536,"oom_killed":"perhaps"}"#)
        }
        "dripping" => {
            reply(stream, r#"{"started":{"process":1}}"#)?;
            frame(stream, STDOUT, b"whole")?;
            drip(stream, STDOUT)
        }
        "endless" => {
            reply(stream, r#"{"started":{"process":1}}"#)?;
            loop {
                frame(stream, STDOUT, &[b'x'; 60_000])?;
                frame(stream, STDERR, &[b'y'; 60_000])?;
            }
        }
        _ => {
            reply(stream, r#"{"started":{"process":1}}"#)?;
            frame(stream, 9, b"")
        }
    }
}

/// Output without end, and connections to the host's ports.
fn flood(mut stream: File) -> std::io::Result<()> {
    thread::spawn(|| {
        let mut open = Vec::new();
        for port in 0..4000 {
            open.extend(vsock::connect(1000 + port % 50));
        }
        drop(open);
    });
    let line = [b'z'; 1000];
    loop {
        frame(&mut stream, STDOUT, &line)?;
        // An answer to nothing, in the middle of output.
        reply(&mut stream, r#""done""#)?;
    }
}

/// What stands behind this, up to the next quotation mark.
fn after<'a>(text: &'a str, key: &str) -> &'a str {
    let rest = text.split_once(key).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or("")
}
