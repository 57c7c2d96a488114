//! What config/kubernetes makes, rendered by kubectl: each object by the schemas of several
//! versions of Kubernetes, and all of them by what they have to agree on, with each other, with the
//! image, and with the server that reads the configuration in them.

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::nix::inputs;
use support::server::binary;

/// The oldest that someone may still run, one between, the newest with schemas.
const VERSIONS: [&str; 3] = ["1.29", "1.33", "1.37"];

#[test]
fn every_object_is_valid_for_old_and_new_kubernetes() {
    for folder in ["base", "overlays/monitoring", "overlays/tls"] {
        let kinds: Vec<String> = objects(folder).iter().map(|it| text(&it["kind"])).collect();
        for kind in [
            "ConfigMap",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "Service",
            "ServiceAccount",
            "StatefulSet",
        ] {
            assert!(kinds.iter().any(|it| it == kind), "{folder}: no {kind}");
        }
    }
}

#[test]
fn the_agent_is_a_daemon_set_whose_configuration_it_takes_and_whose_folders_are_the_nodes() {
    let objects = objects("agent");
    let pod = &one(&objects, "DaemonSet")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(container["image"], json!(format!("snowcached:{version}")));
    let file = text(&one(&objects, "ConfigMap")["data"]["agent.toml"]);
    let folder = support::folder_on_disk();
    let path = folder.path().join("agent.toml");
    fs::write(&path, &file).expect("a file");
    let mut command = Command::new(binary("snowcache"));
    command
        .args(["agent", "--check-config", "--config"])
        .arg(&path);
    let output = command.output().expect("snowcache runs");
    assert!(output.status.success(), "{output:?}");
    // The nix-daemon is told of links by their paths: they are the same inside as outside.
    let list = |of: &Value| of.as_array().expect("a list").clone();
    for mount in list(&container["volumeMounts"]) {
        let volumes = list(&pod["volumes"]);
        let volume = volumes.iter().find(|it| it["name"] == mount["name"]);
        let host = &volume.expect("a volume")["hostPath"]["path"];
        assert!(host.is_null() || *host == mount["mountPath"], "{mount}");
    }
    for folder in ["/var/lib/snowcache-agent", "/run/snowcache-agent"] {
        assert!(file.contains(folder), "{file}");
        let mounts = list(&container["volumeMounts"]);
        assert!(
            mounts.iter().any(|it| it["mountPath"] == folder),
            "{folder}"
        );
    }
    let port = container["ports"][0]["containerPort"].to_string();
    assert!(file.contains(&format!(":{port}\"")), "{file}");
}

#[test]
fn a_pod_waits_for_its_closure_as_the_page_shows_with_the_agents_folder() {
    let page = fs::read_to_string(support::root().join("docs/agent.md")).expect("a page");
    let block = page.split("```yaml\n").nth(1).expect("an example");
    let block = block.split("```").next().expect("its end");
    let mut pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: web }\nspec:\n".to_owned();
    pod += "  containers: [ { name: web, image: web } ]\n";
    block.lines().for_each(|line| pod += &format!("  {line}\n"));
    let output = validate(&pod);
    assert!(output.status.success(), "{output:?}");
    let pod: Value = serde_json::from_slice(&output.stdout).expect("a list of objects");
    let container = &pod[0]["spec"]["initContainers"][0];
    // It says what the client takes: only the hash is none.
    let words = container["command"].as_array().expect("words").iter();
    let words: Vec<&str> = words.filter_map(Value::as_str).skip(1).collect();
    let output = Command::new(binary("snowcache")).args(&words).output();
    let said = output.expect("snowcache runs").stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("is neither a store path nor"), "{said}");
    let mount = &container["volumeMounts"][0]["mountPath"];
    let agent = objects("agent");
    let file = text(&one(&agent, "ConfigMap")["data"]["agent.toml"]);
    assert!(file.contains(mount.as_str().expect("a path")), "{file}");
}

#[test]
fn what_kubernetes_does_not_know_is_noticed() {
    let rendered = render("base").replace("readOnlyRootFilesystem", "readOnlyRootFileSystem");
    let output = validate(&rendered);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(complaint.contains("readOnlyRootFileSystem"), "{complaint}");
}

#[test]
fn selectors_ports_and_users_agree() {
    let objects = objects("overlays/monitoring");
    let pod = &one(&objects, "StatefulSet")["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    for (kind, selector) in [
        ("Service", "/spec/selector"),
        ("StatefulSet", "/spec/selector/matchLabels"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ] {
        assert_eq!(
            one(&objects, kind).pointer(selector),
            Some(labels),
            "{kind}"
        );
    }
    let service = one(&objects, "Service");
    let monitor = one(&objects, "ServiceMonitor");
    assert_eq!(
        monitor["spec"]["selector"]["matchLabels"],
        service["metadata"]["labels"]
    );
    assert_eq!(
        monitor["spec"]["endpoints"][0]["port"],
        service["spec"]["ports"][0]["name"]
    );
    let container = &pod["spec"]["containers"][0];
    assert_eq!(
        service["spec"]["ports"][0]["targetPort"],
        container["ports"][0]["name"]
    );
    let image = fs::read_to_string(support::root().join("scripts/image.sh")).expect("a script");
    let user = &pod["spec"]["securityContext"]["runAsUser"];
    assert!(image.contains(&format!("\nuser={user}\n")), "{user}");
    let port = &container["ports"][0]["containerPort"];
    assert!(image.contains(&format!("\"{port}/tcp\"")), "{port}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(container["image"], json!(format!("snowcached:{version}")));
}

#[test]
fn the_server_takes_its_configuration_and_the_pod_outlives_its_drain() {
    let objects = objects("base");
    let file = text(&one(&objects, "ConfigMap")["data"]["snowcached.toml"]);
    let folder = support::folder_on_disk();
    let path = folder.path().join("snowcached.toml");
    fs::write(&path, file).expect("a file");
    let output = Command::new(binary("snowcached"))
        .args([
            "check-config".as_ref(),
            "--config".as_ref(),
            path.as_os_str(),
        ])
        .output()
        .expect("snowcached runs");
    let effective = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let seconds = |key: &str| -> u64 {
        let mut lines = effective.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        let number = value.and_then(|value| value.split(' ').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("{key} is not in\n{effective}"))
    };
    let pod = &one(&objects, "StatefulSet")["spec"]["template"]["spec"];
    let patience = pod["terminationGracePeriodSeconds"].as_u64().expect("s");
    assert!(patience > seconds("drain_delay_s") + seconds("shutdown_grace_s"));
    // Out of the endpoints before it stops to serve.
    let probe = &pod["containers"][0]["readinessProbe"];
    let number = |key: &str| probe[key].as_u64().expect("a number");
    assert!(number("periodSeconds") * number("failureThreshold") < seconds("drain_delay_s"));
}

#[test]
fn tls_is_what_the_overlay_adds() {
    let objects = objects("overlays/tls");
    let pod = &one(&objects, "StatefulSet")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(
            container[probe]["httpGet"]["scheme"],
            json!("HTTPS"),
            "{probe}"
        );
    }
    let mut mounts = container["volumeMounts"].as_array().expect("mounts").iter();
    let mount = mounts
        .find(|it| it["name"] == json!("tls"))
        .expect("a mount");
    let variables = container["env"].as_array().expect("variables").iter();
    let ours = variables.filter(|it| it["name"] != json!("SNOWCACHE_CONFIG"));
    // As in the pod, but for where the files are.
    let (folder, volume) = (support::folder_on_disk(), text(&mount["mountPath"]));
    certificate(folder.path());
    let mut command = Command::new(binary("snowcached"));
    command.arg("check-config");
    for variable in ours {
        let value = text(&variable["value"]).replace(&volume, &folder.path().to_string_lossy());
        command.env(text(&variable["name"]), value);
    }
    let output = command.output().expect("snowcached runs");
    let effective = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for file in ["tls.crt", "tls.key"] {
        let path = folder.path().join(file).display().to_string();
        assert!(effective.contains(&path), "{effective}");
    }
}

/// As a secret of type kubernetes.io/tls has it.
fn certificate(folder: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=cache.example.org"])
        .args(["-addext", "subjectAltName=DNS:cache.example.org"])
        .args(["-keyout".as_ref(), folder.join("tls.key").as_os_str()])
        .args(["-out".as_ref(), folder.join("tls.crt").as_os_str()])
        .output()
        .expect("openssl runs");
    assert!(output.status.success(), "{output:?}");
}

fn objects(folder: &str) -> Vec<Value> {
    let output = validate(&render(folder));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{folder}: {complaints}");
    serde_json::from_slice(&output.stdout).expect("a list of objects")
}

fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|it| it["kind"] == json!(kind));
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "two of {kind}");
    first
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn render(folder: &str) -> String {
    let ours = inputs().join("kubectl");
    let kubectl = if ours.exists() {
        ours
    } else {
        "kubectl".into()
    };
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(support::root().join("config/kubernetes").join(folder))
        .output()
        .expect("kubectl runs; run: make test-setup");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{folder}: {complaints}");
    String::from_utf8(output.stdout).expect("YAML")
}

fn validate(objects: &str) -> Output {
    let python: &Path = &inputs().join("python/bin/python");
    assert!(
        python.exists(),
        "{} is missing; run: make test-setup",
        python.display()
    );
    let mut child = Command::new(python)
        .arg(support::root().join("tests/kubernetes/validate.py"))
        .args(VERSIONS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(objects.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}
