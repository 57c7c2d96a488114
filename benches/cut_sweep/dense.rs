//! Store paths that are little more than references, as NixOS makes them: every generation of them
//! differs in its hashes only. Made up, so that the kinds a corpus lacks are measured too.

use snowcache_nix::nar::Writer;

/// Names of packages to refer to, and which rebuild this is.
pub struct Made<'a> {
    pub names: &'a [String],
    pub generation: u64,
}

type Nar = Writer<Vec<u8>>;

impl Made<'_> {
    /// Kind, name and NAR of each path.
    pub fn all(&self) -> Vec<(&'static str, String, Vec<u8>)> {
        let mut made = Vec::new();
        for (i, links) in [60, 400, 3_000, 20_000].into_iter().enumerate() {
            made.push((
                "made: symlink farm",
                format!("farm-{i}"),
                nar(|nar| self.farm(nar, links)),
            ));
        }
        for (i, entries) in [40, 120, 400].into_iter().enumerate() {
            made.push((
                "made: etc",
                format!("etc-{i}"),
                nar(|nar| self.etc(nar, entries)),
            ));
        }
        for i in 0..3 {
            made.push((
                "made: toplevel",
                format!("toplevel-{i}"),
                nar(|nar| self.toplevel(nar, i)),
            ));
        }
        for i in 0..80 {
            made.push((
                "made: drv",
                format!("made-{i}.drv"),
                nar(|nar| text(nar, &self.drv(i))),
            ));
        }
        for i in 0..60 {
            made.push((
                "made: script",
                format!("script-{i}"),
                nar(|nar| text(nar, &self.script(i))),
            ));
        }
        made
    }

    fn path(&self, i: usize) -> String {
        let alphabet = b"0123456789abcdfghijklmnpqrsvwxyz";
        let mut state = (i % self.names.len()) as u64 ^ self.generation << 32;
        let hash = (0..32).map(|_| char::from(alphabet[next(&mut state) as usize % 32]));
        format!(
            "/nix/store/{}-{}",
            hash.collect::<String>(),
            self.names[i % self.names.len()]
        )
    }

    fn farm(&self, nar: &mut Nar, links: usize) {
        directory(nar, ["bin", "share"], |nar, name| {
            let links = if name == "bin" {
                links / 4
            } else {
                links - links / 4
            };
            let entries = (0..links).map(|i| format!("{i:05}-{}", &word(i * 7)));
            directory(nar, entries, |nar, entry| {
                let target = format!("{}/{name}/{entry}", self.path(number(entry) / 9));
                nar.symlink(target.as_bytes()).expect("a good symlink");
            });
        });
    }

    fn etc(&self, nar: &mut Nar, entries: usize) {
        let entries = (0..entries).map(|i| format!("{i:03}-{}.service", word(i)));
        directory(nar, entries, |nar, entry| match number(entry) % 5 {
            0 => text(
                nar,
                &format!("[Unit]\nDescription={entry}\n[Install]\nWantedBy=multi-user.target\n"),
            ),
            i => {
                let target = format!("{}/{entry}", self.path(number(entry) * 5 + i));
                nar.symlink(target.as_bytes()).expect("a good symlink");
            }
        });
    }

    fn toplevel(&self, nar: &mut Nar, seed: usize) {
        let links = [
            "etc",
            "firmware",
            "initrd",
            "kernel",
            "kernel-modules",
            "sw",
            "systemd",
        ];
        let all = [
            "activate",
            "append-initrd-secrets",
            "etc",
            "firmware",
            "init",
            "initrd",
            "kernel",
        ];
        let rest = [
            "kernel-modules",
            "kernel-params",
            "nixos-version",
            "sw",
            "systemd",
        ];
        directory(nar, all.into_iter().chain(rest), |nar, entry| match entry {
            "activate" => text(nar, &self.script(seed * 10 + 59)),
            "init" => text(nar, &self.script(seed + 25)),
            _ if links.contains(&entry) => {
                let target = format!("{}/{entry}", self.path(entry.len() * 3 + seed));
                nar.symlink(target.as_bytes()).expect("a good symlink");
            }
            _ => text(
                nar,
                &format!("loglevel=4 {entry} init={}/init\n", self.path(seed)),
            ),
        });
    }

    fn drv(&self, seed: usize) -> String {
        let inputs =
            (0..3 + seed).map(|i| format!("(\"{}.drv\",[\"out\"])", self.path(seed * 3 + i * 2)));
        let inputs = inputs.collect::<Vec<_>>().join(",");
        let (out, shell, builder) = (self.path(seed), self.path(1), self.path(2));
        let uses: Vec<_> = (0..seed / 3).map(|i| self.path(seed * 3 + i * 2)).collect();
        let environment = [
            ("builder", &*shell),
            ("buildInputs", &uses.join(" ")),
            ("out", &out),
        ];
        let environment = environment
            .map(|(name, value)| format!("(\"{name}\",\"{value}\")"))
            .join(",");
        format!(
            "Derive([(\"out\",\"{out}\",\"\",\"\")],[{inputs}],[\"{builder}\"],\"x86_64-linux\",\
             \"{shell}\",[\"-e\",\"{builder}\"],[{environment},(\"doCheck\",\"1\"),\
             (\"system\",\"x86_64-linux\")])"
        )
    }

    fn script(&self, seed: usize) -> String {
        let mut script = format!("#!{}/bin/bash\nset -euo pipefail\n", self.path(1));
        for line in 0..1 + seed {
            script += &match (seed + line) % 4 {
                0 => format!("export PATH={}/bin:$PATH\n", self.path(seed + line)),
                1 => format!(
                    "if [ -e /run/{} ]; then rm -f /run/{}; fi\n",
                    word(line),
                    word(line + seed)
                ),
                2 => format!(
                    "{}/bin/{} --config /etc/{}\n",
                    self.path(line),
                    word(line),
                    word(seed)
                ),
                _ => format!("# {} {}\n", word(seed * 3 + line), word(line * 5)),
            };
        }
        script
    }
}

fn nar(content: impl FnOnce(&mut Nar)) -> Vec<u8> {
    let mut nar = Writer::new(Vec::new());
    content(&mut nar);
    nar.finish().expect("a complete NAR")
}

fn directory<N: AsRef<str>>(
    nar: &mut Nar,
    names: impl IntoIterator<Item = N>,
    mut content: impl FnMut(&mut Nar, &str),
) {
    nar.directory().expect("a directory");
    for name in names {
        nar.entry(name.as_ref().as_bytes()).expect("sorted names");
        content(nar, name.as_ref());
    }
    nar.end_directory().expect("a directory");
}

fn text(nar: &mut Nar, text: &str) {
    nar.file(false, text.len() as u64).expect("a file");
    nar.data(text.as_bytes()).expect("its content");
}

fn number(entry: &str) -> usize {
    entry
        .chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(0)
}

fn word(i: usize) -> String {
    let syllables = [
        "net", "sys", "ctl", "mod", "dev", "user", "log", "time", "sync", "d", "kit", "lib",
    ];
    let mut state = i as u64;
    (0..2 + i % 2)
        .map(|_| syllables[next(&mut state) as usize % syllables.len()])
        .collect()
}

fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    *state >> 33
}
