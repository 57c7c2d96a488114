//! Any bytes: a recipe, or an error; and what decodes is the one encoding of what it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowcache_core::recipe::{Blocks, Recipe};

fuzz_target!(|bytes: &[u8]| match Recipe::decode(bytes) {
    Ok(recipe) => {
        assert_eq!(recipe.encode(), bytes);
        assert!(recipe.ops().len() <= bytes.len() / 2);
        let blocks = Blocks::open(bytes).expect("it decoded");
        assert_eq!(blocks.nar_size_bytes(), recipe.nar_size_bytes());
        assert_eq!(blocks.find(recipe.nar_size_bytes()), None);
    }
    Err(error) => assert!(!error.to_string().is_empty()),
});
