//! `snowcache prefetch`: closures come to this node ahead of time.
//!
//! Guarantees: the exit code is 0 only when everything is valid here and pinned; otherwise a
//! sentence says which path, which cache, and what to do.

mod handed;
mod progress;

use super::subject::{self, Subject};
use super::{block_on, connect, connect_openly, print, print_json};
use crate::cli::{CacheArgs, NodeArgs, PrefetchArgs};
use crate::failure::{Exit, Failure};
use crate::figures::Figures;
use crate::frame_spool::FrameSpool;
use crate::nix_conf;
use crate::node::Node;
use crate::prefetch::{Event, Prefetch};
use crate::preflight;
use crate::rate::Rate;
use crate::show;
use crate::sources::Sources;
use crate::store::Store;
use progress::Progress;
use serde::Serialize;
use std::time::Instant;

#[derive(Serialize)]
struct Summary {
    ready: bool,
    roots: Vec<String>,
    pin: String,
    paths: usize,
    fetched: usize,
    made: usize,
    nar_size_bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Planned {
        paths: usize,
        missing: usize,
        nar_size_bytes: u64,
    },
    Imported {
        path: String,
        from: &'a str,
        nar_size_bytes: u64,
    },
    Rehashing {
        paths: usize,
        nar_size_bytes: u64,
    },
    Again {
        why: String,
    },
    Careful {
        why: &'a str,
    },
    Progress(Figures),
    Summary(&'a Summary),
    Failure {
        why: String,
    },
}

pub(super) fn run(cache: &CacheArgs, args: &PrefetchArgs) -> Result<(), Failure> {
    let subjects = args.roots.iter().map(|root| subject::parse_whole(root));
    let subjects = subjects.collect::<Result<Vec<_>, _>>()?;
    let node = node(&args.node)?;
    block_on(async {
        let result = match handed::agent_for(&node, args).await? {
            Some(agent) => handed::over(&agent, cache, &subjects, args).await,
            None => {
                let spool = FrameSpool::of(&node, &args.pin, args.spool);
                let sources = sources(cache, args, &spool)?;
                let store = Store::at(args.node.store_socket.clone());
                bring(&sources, &store, (&node, &spool), &subjects, args).await
            }
        };
        match result {
            Err(failure) if args.json => {
                let why = failure.sentence().unwrap_or_default().to_owned();
                print_json(&Line::Failure { why })?;
                Err(Failure::told(failure.exit()))
            }
            result => result,
        }
    })
}

/// This node's folder.
pub(super) fn node(args: &NodeArgs) -> Result<Node, Failure> {
    let folder = args.state.clone().unwrap_or_else(Node::default_folder);
    // Nix looks at the links from elsewhere.
    let folder = std::path::absolute(&folder)
        .map_err(|error| Failure::usage(format!("--state {}: {error}", folder.display())))?;
    Ok(Node::at(folder))
}

/// The caches, of which only the one that --cache names gets its token.
fn sources(cache: &CacheArgs, args: &PrefetchArgs, spool: &FrameSpool) -> Result<Sources, Failure> {
    let urls = match args.from.is_empty() {
        true => std::slice::from_ref(&cache.cache),
        false => args.from.as_slice(),
    };
    let remotes = urls.iter().map(|url| match *url == cache.cache {
        true => connect(url, cache),
        false => connect_openly(url),
    });
    let rate = Rate::new(args.rate);
    let remotes = remotes.map(|remote| {
        let remote = remote?.at_rate(rate.clone());
        Ok::<_, Failure>(remote.spooled(spool.clone()))
    });
    let trusted = super::gate::trusted(&args.trusted_public_keys)?;
    nix_conf::check_trusted(&trusted).map_err(Failure::failed)?;
    Ok(Sources::new(remotes.collect::<Result<_, _>>()?, trusted))
}

async fn bring(
    sources: &Sources,
    store: &Store,
    (node, spool): (&Node, &FrameSpool),
    subjects: &[Subject],
    args: &PrefetchArgs,
) -> Result<(), Failure> {
    let begin = Instant::now();
    let roots: Vec<_> = subjects.iter().map(|subject| subject.hash).collect();
    let progress = Progress::new(store.imported_bytes(), args.json, args.quiet);
    let on = |event: Event<'_>| tell(&event, args, &progress);
    let prefetch = Prefetch {
        sources,
        store,
        node,
        spool,
        pin: &args.pin,
        jobs: usize::from(args.jobs),
        on: &on,
    };
    let run = prefetch.run(&roots);
    let ready = progress.show_while(run).await?;
    for subject in subjects {
        let found = ready.roots.iter().find(|it| it.hash() == subject.hash);
        found.map_or(Ok(()), |found| subject.check_name(found))?;
    }
    let careful = ready.roots.iter();
    let careful = careful.filter_map(|root| preflight::careful(&root.absolute()));
    for careful in careful.filter(|_| !args.json && !args.quiet) {
        eprintln!("snowcache: careful: {careful}");
    }
    let summary = Summary {
        ready: true,
        roots: ready.roots.iter().map(|root| root.absolute()).collect(),
        pin: args.pin.clone(),
        paths: ready.closure.len(),
        fetched: ready.fetched,
        made: ready.made,
        nar_size_bytes: ready.nar_size_bytes,
        seconds: begin.elapsed().as_secs_f64(),
    };
    summary.show(args)
}

fn tell(event: &Event<'_>, args: &PrefetchArgs, progress: &Progress) {
    progress.note(event);
    let line = match event {
        Event::Planned {
            paths,
            missing,
            nar_size_bytes,
        } => Line::Planned {
            paths: *paths,
            missing: *missing,
            nar_size_bytes: *nar_size_bytes,
        },
        Event::Imported { narinfo, origin } => Line::Imported {
            path: narinfo.info.store_path.absolute(),
            from: origin,
            nar_size_bytes: narinfo.info.nar_size,
        },
        Event::Rehashing {
            paths,
            nar_size_bytes,
        } => {
            progress.clear();
            if !args.json && !args.quiet {
                let (paths, size) = (show::paths(*paths), show::size(*nar_size_bytes));
                eprintln!("snowcache: hashing what was here before: {paths}, {size}");
            }
            Line::Rehashing {
                paths: *paths,
                nar_size_bytes: *nar_size_bytes,
            }
        }
        Event::Careful { why } => {
            progress.clear();
            if !args.json && !args.quiet {
                eprintln!("snowcache: careful: {why}");
            }
            Line::Careful { why }
        }
        Event::Again { error } => {
            progress.clear();
            if !args.json && !args.quiet {
                eprintln!("snowcache: trying again: {error}");
            }
            Line::Again {
                why: error.to_string(),
            }
        }
    };
    if args.json && print_json(&line).is_err() {
        // Stdout is gone for good (a full disk behind it, say): nobody could be told anything.
        std::process::exit(i32::from(Exit::Failed as u8));
    }
}

impl Summary {
    fn show(&self, args: &PrefetchArgs) -> Result<(), Failure> {
        match (args.json, args.quiet) {
            (true, _) => print_json(&Line::Summary(self)),
            (false, true) => Ok(()),
            (false, false) => print(&self.text()),
        }
    }

    fn text(&self) -> String {
        let (paths, fetched) = (show::paths(self.paths), show::count(self.fetched as u64));
        let (size, seconds) = (show::size(self.nar_size_bytes), self.seconds);
        let made = match self.made {
            0 => String::new(),
            made => format!(", {} made of older paths", show::count(made as u64)),
        };
        let mut text = format!(
            "ready: {paths}, {fetched} of them fetched ({size} of NARs{made}), in {seconds:.1} s; \
             kept by the pin {}\n",
            self.pin
        );
        for root in &self.roots {
            text.push_str(root);
            text.push('\n');
        }
        text
    }
}
