//! Who waits for what to happen in a cache, and is told when it does.
//!
//! ```text
//!   PUT pins/<name> --moved--> register: who wants it? --> each listener's queue --> its stream
//!   commit, narinfo --ready-->     '--nobody listens: one look, and nothing else
//! ```
//! Guarantees: what happens after [`Events::listen`] has returned is told to the listener, or it
//! hears that it has lost something; so whoever listens first and looks then misses nothing. Who
//! tells never waits: a listener whose queue is full is told no more. Bounded: listeners, what each
//! wants, and what waits for each. Never: told of another cache.

use snowcache_depot::PinName;
use snowcache_nix::StoreHash;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Events that wait for a listener whose connection takes nothing: of 64 paths each they are 16 KB.
const QUEUED: usize = 8;

/// What somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// A pin, to move.
    Pin(PinName),
    /// A path, to be visible.
    Path(StoreHash),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This pin stands for this generation now.
    Moved(PinName, u64),
    /// These paths are visible.
    Ready(Vec<StoreHash>),
}

/// What a listener hears next.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// What happened.
    Event(Event),
    /// It was too slow: more happened, and it must ask anew.
    Lost,
    /// The server ends.
    End,
}

/// Why somebody may not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// So many listen already.
    TooMany(usize),
    /// The server ends.
    Ending,
}

/// See the module.
pub struct Events {
    /// Listeners that there may be.
    places: usize,
    listening: AtomicUsize,
    lost: AtomicU64,
    register: Mutex<Register>,
}

#[derive(Default)]
struct Register {
    next: u64,
    queues: HashMap<u64, mpsc::Sender<Event>>,
    /// By the number of a cache.
    wanted: HashMap<(u32, Wanted), Vec<u64>>,
    is_ending: bool,
}

/// Somebody who listens, until it is dropped.
pub struct Listener {
    events: Arc<Events>,
    number: u64,
    cache: u32,
    wanted: HashSet<Wanted>,
    queue: mpsc::Receiver<Event>,
}

impl Events {
    /// For so many listeners at once.
    pub fn new(places: usize) -> Events {
        Events {
            places,
            listening: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            register: Mutex::default(),
        }
    }

    /// Listens from now on, to this cache.
    ///
    /// # Errors
    /// When too many do, or the server ends.
    pub fn listen(
        self: &Arc<Self>,
        cache: u32,
        wanted: HashSet<Wanted>,
    ) -> Result<Listener, Refused> {
        let mut register = self.register();
        if register.is_ending {
            return Err(Refused::Ending);
        }
        if self.listening.load(Ordering::Relaxed) >= self.places {
            return Err(Refused::TooMany(self.places));
        }
        self.listening.fetch_add(1, Ordering::Relaxed);
        let number = register.next;
        register.next += 1;
        let (sender, queue) = mpsc::channel(QUEUED);
        register.queues.insert(number, sender);
        for one in &wanted {
            let those = register.wanted.entry((cache, one.clone())).or_default();
            those.push(number);
        }
        drop(register);
        // Whoever publishes does so first and looks for listeners then; a listener is counted first
        // and looks for what is there then: one of them sees the other.
        fence(Ordering::SeqCst);
        Ok(Listener {
            events: self.clone(),
            number,
            cache,
            wanted,
            queue,
        })
    }

    /// A pin of this cache has been set: it stands for this generation.
    pub fn moved(&self, cache: u32, pin: &PinName, generation: u64) {
        if self.is_silent() {
            return;
        }
        let mut register = self.register();
        for listener in register.who(cache, Wanted::Pin(pin.clone())) {
            let event = Event::Moved(pin.clone(), generation);
            self.tell(&mut register, listener, event);
        }
    }

    /// These paths of this cache are visible.
    pub fn ready(&self, cache: u32, paths: &[StoreHash]) {
        if self.is_silent() {
            return;
        }
        let mut register = self.register();
        let mut ready: HashMap<u64, Vec<StoreHash>> = HashMap::new();
        for path in paths {
            for listener in register.who(cache, Wanted::Path(*path)) {
                ready.entry(listener).or_default().push(*path);
            }
        }
        for (listener, paths) in ready {
            self.tell(&mut register, listener, Event::Ready(paths));
        }
    }

    /// Ends all streams: whoever listens, or begins to, is sent elsewhere.
    pub fn end(&self) {
        let mut register = self.register();
        register.is_ending = true;
        register.queues.clear();
    }

    /// How many listen, and how many were too slow since the start.
    pub fn counted(&self) -> (usize, u64) {
        let listening = self.listening.load(Ordering::Relaxed);
        (listening, self.lost.load(Ordering::Relaxed))
    }

    /// Whether there is nobody to be told of what was published before this is called.
    fn is_silent(&self) -> bool {
        fence(Ordering::SeqCst);
        self.listening.load(Ordering::Relaxed) == 0
    }

    fn tell(&self, register: &mut Register, listener: u64, event: Event) {
        let queue = register.queues.get(&listener);
        if queue.is_some_and(|queue| queue.try_send(event).is_err()) {
            // It hears what waits for it, and then the end of its queue.
            register.queues.remove(&listener);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        // Between two changes of it nothing can panic.
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register {
    fn who(&self, cache: u32, wanted: Wanted) -> Vec<u64> {
        let those = self.wanted.get(&(cache, wanted));
        those.cloned().unwrap_or_default()
    }
}

impl Listener {
    /// The next that it hears; after [`Heard::Lost`] and [`Heard::End`] nothing else.
    pub async fn next(&mut self) -> Heard {
        match self.queue.recv().await {
            Some(event) => Heard::Event(event),
            None if self.events.register().is_ending => Heard::End,
            None => Heard::Lost,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut register = self.events.register();
        register.queues.remove(&self.number);
        for one in self.wanted.drain() {
            let key = (self.cache, one);
            if let Some(those) = register.wanted.get_mut(&key) {
                those.retain(|number| *number != self.number);
                if those.is_empty() {
                    register.wanted.remove(&key);
                }
            }
        }
        self.events.listening.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(name: &str) -> PinName {
        name.parse().unwrap()
    }

    fn path(letter: char) -> StoreHash {
        let text: String = std::iter::repeat_n(letter, 32).collect();
        text.parse().unwrap()
    }

    fn listen(events: &Arc<Events>, cache: u32, wanted: &[Wanted]) -> Listener {
        let wanted = wanted.iter().cloned().collect();
        events.listen(cache, wanted).unwrap()
    }

    #[tokio::test]
    async fn each_hears_of_its_cache_what_it_wants_and_nothing_else() {
        let events = Arc::new(Events::new(2));
        let wanted = [Wanted::Pin(pin("web")), Wanted::Path(path('a'))];
        let mut here = listen(&events, 1, &wanted);
        let mut there = listen(&events, 2, &wanted);
        events.ready(1, &[path('b'), path('c')]);
        events.moved(1, &pin("other"), 7);
        events.moved(1, &pin("web"), 3);
        events.ready(1, &[path('b'), path('a')]);
        events.moved(2, &pin("web"), 9);
        let moved = |number| Heard::Event(Event::Moved(pin("web"), number));
        assert_eq!(here.next().await, moved(3));
        let ready = Heard::Event(Event::Ready(vec![path('a')]));
        assert_eq!(here.next().await, ready);
        assert_eq!(there.next().await, moved(9));
        events.end();
        assert_eq!(
            (here.next().await, there.next().await),
            (Heard::End, Heard::End)
        );
        let refused = events.listen(1, HashSet::new()).err();
        assert_eq!(refused, Some(Refused::Ending));
    }

    #[tokio::test]
    async fn who_lags_hears_what_waited_and_that_more_was_lost() {
        let events = Arc::new(Events::new(2));
        let mut slow = listen(&events, 0, &[Wanted::Pin(pin("web"))]);
        let mut quick = listen(&events, 0, &[Wanted::Pin(pin("web"))]);
        for generation in 1..=QUEUED as u64 + 2 {
            events.moved(0, &pin("web"), generation);
            let moved = Event::Moved(pin("web"), generation);
            assert_eq!(quick.next().await, Heard::Event(moved));
        }
        for generation in 1..=QUEUED as u64 {
            let moved = Event::Moved(pin("web"), generation);
            assert_eq!(slow.next().await, Heard::Event(moved));
        }
        assert_eq!(slow.next().await, Heard::Lost);
        assert_eq!(events.counted(), (2, 1), "once, however much it was");
    }

    #[test]
    fn who_goes_makes_room_and_leaves_nothing_behind() {
        let events = Arc::new(Events::new(1));
        let one = listen(
            &events,
            0,
            &[Wanted::Path(path('a')), Wanted::Pin(pin("x"))],
        );
        let refused = events.listen(0, HashSet::new()).err();
        assert_eq!(refused, Some(Refused::TooMany(1)));
        drop(one);
        assert_eq!(events.counted(), (0, 0));
        let register = events.register();
        assert!(register.queues.is_empty() && register.wanted.is_empty());
    }
}
