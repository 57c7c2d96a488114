//! What an index that stands before another one leaves to it: verbs of [`Index`](super::Index),
//! written out here once. Never: a verb that was not asked for, so that a new one is thought of.

/// Has the verbs that are named done by the index in this field.
macro_rules! forward {
    (to $index:ident: $($verb:ident)+) => {
        $($crate::index::forward::forward!(@$verb $index);)+
    };
    (@get $index:ident) => {
        fn get(
            &self,
            table: $crate::index::Table,
            key: &[u8],
        ) -> $crate::Result<Option<bytes::Bytes>> {
            self.$index.get(table, key)
        }
    };
    (@get_many $index:ident) => {
        fn get_many(
            &self,
            table: $crate::index::Table,
            keys: &[&[u8]],
        ) -> $crate::Result<Vec<Option<bytes::Bytes>>> {
            self.$index.get_many(table, keys)
        }
    };
    (@write $index:ident) => {
        fn write(&self, batch: $crate::index::Batch) -> $crate::Result<()> {
            self.$index.write(batch)
        }
    };
    (@scan $index:ident) => {
        fn scan(
            &self,
            table: $crate::index::Table,
            prefix: &[u8],
            after: Option<&[u8]>,
            limit: usize,
        ) -> $crate::Result<Vec<$crate::index::Row>> {
            self.$index.scan(table, prefix, after, limit)
        }
    };
    (@rows_about $index:ident) => {
        fn rows_about(&self, table: $crate::index::Table) -> $crate::Result<u64> {
            self.$index.rows_about(table)
        }
    };
    (@stalls $index:ident) => {
        fn stalls(&self) -> $crate::Result<u64> {
            self.$index.stalls()
        }
    };
    (@pause $index:ident) => {
        fn pause(&self) -> $crate::Result<std::time::Duration> {
            self.$index.pause()
        }
    };
    (@checkpoint $index:ident) => {
        fn checkpoint(&self) -> $crate::Result<()> {
            self.$index.checkpoint()
        }
    };
    (@ready $index:ident) => {
        fn ready(&self) -> $crate::Result<u64> {
            self.$index.ready()
        }
    };
}
pub(crate) use forward;
