//! A depot's pins: what [`Pin`] decides, carried out in the committer's order.
//!
//! Guarantees: a change is durable when it returns; of two at the same time each sees the other or
//! is seen by it; only what is here can be pinned.

use crate::commit::{Change, Outcome, PinEdit};
use crate::depot::Depot;
use crate::index::{Rows, Table};
use crate::keys::CacheName;
use crate::pins::{Pin, PinChange, PinName};
use crate::rows::PinRow;
use crate::{Error, Result};

impl Depot {
    /// All pins of a cache, by name.
    pub fn pins(&self, cache: &CacheName) -> Result<Vec<Pin>> {
        let prefix = cache.key(b"");
        let rows = Rows::new(&*self.shared().index, Table::Pins, &prefix);
        let pins = rows.map(|row| Ok(PinRow::decode(&row?.1)?.pin));
        pins.filter(|pin| !pin.as_ref().is_ok_and(|pin| pin.generations.is_empty()))
            .collect()
    }

    /// One pin.
    pub fn pin(&self, cache: &CacheName, name: &PinName) -> Result<Option<Pin>> {
        let key = cache.key(name.as_str().as_bytes());
        let row = self.shared().index.get(Table::Pins, &key)?;
        let pin = row.map(|row| PinRow::decode(&row)).transpose()?;
        Ok(pin
            .map(|row| row.pin)
            .filter(|pin| !pin.generations.is_empty()))
    }

    /// Gives a pin a new generation, and makes the pin when there is none.
    ///
    /// # Errors
    /// `Refused` where a root is not visible in the cache, and as [`Pin::set`].
    pub fn set_pin(
        &self,
        cache: &CacheName,
        name: &PinName,
        change: PinChange,
        subject: &str,
    ) -> Result<Pin> {
        let (now, subject) = ((self.shared().clock)(), subject.to_owned());
        let named = name.clone();
        let edit: PinEdit =
            Box::new(move |before| Pin::set(before, &named, change, now, &subject).map(Some));
        let pin = self.edit_pin(cache, name, edit)?;
        pin.ok_or_else(|| unknown(name))
    }

    /// Moves a pin to an earlier generation, or to any that it has.
    ///
    /// # Errors
    /// `Refused` where there is no such pin or generation.
    pub fn rollback_pin(
        &self,
        cache: &CacheName,
        name: &PinName,
        to: Option<u64>,
        subject: &str,
    ) -> Result<Pin> {
        let now = (self.shared().clock)();
        let named = name.clone();
        let edit: PinEdit = Box::new(move |before| {
            let pin = before.ok_or_else(|| unknown(&named))?;
            pin.rollback(to, now).map(Some)
        });
        let pin = self.edit_pin(cache, name, edit)?;
        tracing::info!(pin = %name, to, subject, "rolled back");
        pin.ok_or_else(|| unknown(name))
    }

    /// Removes a pin; whether there was one.
    pub fn remove_pin(&self, cache: &CacheName, name: &PinName, subject: &str) -> Result<bool> {
        let was = self.pin(cache, name)?.is_some();
        self.edit_pin(cache, name, Box::new(|_| Ok(None)))?;
        tracing::info!(pin = %name, subject, was, "removed");
        Ok(was)
    }

    fn edit_pin(&self, cache: &CacheName, name: &PinName, edit: PinEdit) -> Result<Option<Pin>> {
        let (cache, name) = (cache.clone(), name.clone());
        match self.commit(Change::Pin { cache, name, edit })? {
            Outcome::Pin(pin) => Ok(pin),
            _ => unreachable!("a pin was handed in"),
        }
    }
}

fn unknown(name: &PinName) -> Error {
    Error::refused(format!(
        "there is no pin {name}; snowcache pin list shows those there are"
    ))
}
