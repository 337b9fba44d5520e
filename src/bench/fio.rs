//! fio of this machine, with the libraries that it needs, as files of the root that
//! every target has: so that the same program runs everywhere, and what it prints
//! is what people who measure disks know.

use std::fs;

use serde::Deserialize;

use super::error::{Context, Error, Result};
use super::targets;
use super::work::{Entry, libraries};

/// Where it is in the root, which it starts in.
const DIRECTORY: &str = "fio";
/// The jobs, one after the other. Of the same size as the workload's own, in a file
/// that is written already.
const JOBS: &str = "[global]
filename=data/fio
size=32m
direct=1
ioengine=psync
overwrite=1
thread
time_based
runtime=500ms
clocksource=clock_gettime
stonewall

[write-sequential]
rw=write
bs=1m

[read-sequential]
rw=read
bs=1m

[write-random]
rw=randwrite
bs=4k

[read-random]
rw=randread
bs=4k

[read-deep]
rw=randread
bs=4k
ioengine=libaio
iodepth=32

[fsync]
rw=randwrite
bs=4k
fsync=1
";

/// fio, ready to be run on targets.
#[derive(Debug, Clone)]
pub struct Fio {
    /// Its version, as it prints it.
    pub version: String,
    /// What runs it in the root.
    command: Vec<String>,
}

impl Fio {
    /// It, and the files that it takes.
    ///
    /// # Errors
    /// When it is not installed, or its libraries cannot be found.
    pub fn new() -> Result<(Self, Vec<Entry>)> {
        let program = targets::find("fio")
            .ok_or_else(|| Error::Failed("fio is not installed: install the package fio".into()))?;
        let mut entries = vec![
            Entry::directory(DIRECTORY),
            Entry::file(&format!("{DIRECTORY}/jobs"), JOBS.into()),
        ];
        let mut loader = None;
        let libraries = libraries(&program).into_iter().map(|(_, path)| path);
        for path in libraries.chain([program.clone()]) {
            let data = fs::read(&path).context(|| path.display().to_string())?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{DIRECTORY}/{name}");
            if name.starts_with(&format!("{DIRECTORY}/ld-")) {
                loader = Some(name.clone());
            }
            entries.push(Entry::program(&name, data));
        }
        let loader = loader.ok_or_else(|| {
            Error::Failed(format!("{} has no loader: it is static", program.display()))
        })?;
        let words = [
            "exec",
            &loader,
            "--library-path",
            DIRECTORY,
            "fio/fio",
            "--output-format=json",
            "fio/jobs",
        ];
        let fio = Fio {
            version: targets::version(&program),
            command: words.map(str::to_owned).to_vec(),
        };
        Ok((fio, entries))
    }

    /// What the workload is to do.
    pub fn args(&self) -> Vec<&str> {
        self.command.iter().map(String::as_str).collect()
    }
}

/// What is read of a job in fio's output.
#[derive(Debug, Deserialize)]
pub struct Job {
    jobname: String,
    error: i32,
    /// Its reads.
    pub read: Direction,
    /// Its writes.
    pub write: Direction,
    /// Its fsyncs.
    pub sync: Sync,
}

/// Reads or writes.
#[derive(Debug, Deserialize)]
pub struct Direction {
    /// Bytes a second.
    pub bw_bytes: f64,
    /// Requests a second.
    pub iops: f64,
}

/// fsyncs.
#[derive(Debug, Deserialize)]
pub struct Sync {
    /// How long they took.
    pub lat_ns: Latency,
}

/// Of all of a kind.
#[derive(Debug, Deserialize)]
pub struct Latency {
    /// In ns.
    #[serde(default)]
    pub mean: f64,
}

/// All jobs, as fio tells of them.
#[derive(Debug, Deserialize)]
pub struct Report {
    jobs: Vec<Job>,
}

impl Report {
    /// Reads fio's output; its JSON is the second value.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn parse(output: &str) -> Result<(Self, &str)> {
        // A warning may be before it, on the same stream.
        let json = output.find("{\n").or_else(|| output.find("{\r\n"));
        let json = &output[json.unwrap_or(0)..];
        let report = serde_json::from_str(json).map_err(|e| {
            let said = output.lines().next().unwrap_or("nothing");
            Error::Failed(format!(
                "fio: {e}: it said: {}",
                crate::output::one_line(said)
            ))
        })?;
        Ok((report, json))
    }

    /// A job of this name that did something.
    ///
    /// # Errors
    /// When there is none, or it failed.
    pub fn job(&self, name: &str) -> Result<&Job> {
        let job = self.jobs.iter().find(|job| job.jobname == name);
        match job {
            Some(job) if job.error == 0 => Ok(job),
            Some(job) => {
                let error = std::io::Error::from_raw_os_error(job.error);
                Err(Error::Failed(format!("fio: {name}: {error}")))
            }
            None => Err(Error::Failed(format!("fio: it says nothing of {name}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_output_is_read() {
        let output = r#"fio: a warning
{
  "fio version" : "fio-3.33",
  "jobs" : [
    { "jobname" : "read-random", "error" : 0,
      "read" : { "bw_bytes" : 27619442, "iops" : 6743.027888 },
      "write" : { "bw_bytes" : 0, "iops" : 0.0 },
      "sync" : { "total_ios" : 0, "lat_ns" : { "min" : 0, "mean" : 0.0 } } },
    { "jobname" : "fsync", "error" : 28,
      "read" : { "bw_bytes" : 0, "iops" : 0.0 },
      "write" : { "bw_bytes" : 1, "iops" : 1.0 },
      "sync" : { "lat_ns" : { "mean" : 3163456.510204 } } }
  ]
}
"#;
        let (report, json) = Report::parse(output).unwrap();
        assert!(json.starts_with("{\n  \"fio version\""));
        assert_eq!(report.job("read-random").unwrap().read.iops, 6743.027888);
        let full = report.job("fsync").unwrap_err().to_string();
        assert!(full.contains("fsync: No space left"), "{full}");
        assert!(report.job("write-random").is_err());
        let error = Report::parse("fio: no\n").unwrap_err().to_string();
        assert!(error.ends_with("it said: fio: no"), "{error}");
    }
}
