//! Random tokens, many of them by one system call.

use crate::ids::Token;

/// Tokens of one call.
const MANY: usize = 32;

/// Tokens that nobody has yet, from the kernel's random source. Given out they are forgotten here.
pub struct TokenPool {
    bytes: [u8; MANY * 16],
    left: usize,
}

impl Default for TokenPool {
    fn default() -> Self {
        Self { bytes: [0; MANY * 16], left: 0 }
    }
}

impl TokenPool {
    /// Another one.
    ///
    /// # Errors
    /// The random source failed, which Linux only does very early at boot.
    pub fn take(&mut self) -> Result<Token, getrandom::Error> {
        if self.left == 0 {
            getrandom::fill(&mut self.bytes)?;
            self.left = MANY;
        }
        self.left -= 1;
        let at = self.left * 16;
        let mut token = [0; 16];
        token.swap_with_slice(&mut self.bytes[at..at + 16]);
        Ok(Token(token))
    }
}

/// Shows none of them.
impl core::fmt::Debug for TokenPool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TokenPool").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{MANY, TokenPool};
    use std::collections::HashSet;

    #[test]
    fn no_two_are_the_same_and_none_is_kept() {
        let mut pool = TokenPool::default();
        let all: HashSet<_> = (0..3 * MANY).map(|_| pool.take().unwrap().0).collect();
        assert_eq!(all.len(), 3 * MANY);
        assert!(!all.contains(&[0; 16]));
        assert_eq!(pool.bytes, [0; MANY * 16], "those that were given out are not kept");
    }
}
