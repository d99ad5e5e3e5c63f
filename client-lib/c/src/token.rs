//! `struct dmashare_token`, `struct dmashare_grant`

use std::ffi::{c_char, c_int};
use std::time::Duration;

use dmashare::{Connection, Grantee, Shared};

use crate::argument::{In, Out, Versioned};
use crate::export::Export;
use crate::failure::{Failure, call};
use crate::fence::SharedFence;
use crate::handle::Handle;
use crate::neutral::Neutral;
use crate::timeline::Timeline;

/// `struct dmashare_token`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Token([u8; 16]);

impl Token {
    pub(crate) fn read(token: &In<Self>) -> Result<dmashare::Token, Failure> {
        Ok(dmashare::Token::from_bytes(token.get("the token")?.0))
    }
}

impl From<dmashare::Token> for Token {
    fn from(token: dmashare::Token) -> Self {
        Self(token.to_bytes())
    }
}

/// `struct dmashare_grant`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Grant {
    version: u32,
    to: u32,
    uid: u32,
    uses: u32,
    ttl_ns: i64,
}

// SAFETY: `#[repr(C)]`, integers, the first a u32.
unsafe impl Versioned for Grant {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

impl Grant {
    pub(crate) fn read(grant: &In<Self>) -> Result<dmashare::Grant, Failure> {
        let Some(grant) = grant.versioned()? else { return Ok(dmashare::Grant::default()) };
        Ok(dmashare::Grant {
            to: match grant.to {
                0 => Grantee::Uid(grant.uid),
                1 => Grantee::Anyone,
                other => return Err(Failure::invalid(format!("{other} is no grantee"))),
            },
            uses: grant.uses,
            ttl: u64::try_from(grant.ttl_ns)
                .map(Duration::from_nanos)
                .map_err(|_| Failure::invalid("a token's time lies in the past"))?,
        })
    }
}

fn grant(
    connection: &Connection,
    object: &impl Shared,
    grant: &In<Grant>,
    token: &Out<Token>,
) -> Result<c_int, Failure> {
    token.check()?;
    token.put(connection.grant(object, Grant::read(grant)?)?.into());
    Ok(0)
}

macro_rules! grant_functions {
    ($($name:ident $type:ty;)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(
            object: Handle<$type>,
            to: In<Grant>,
            token: Out<Token>,
        ) -> c_int {
            call(|| {
                let object = object.get()?;
                grant(&object.connection, &object.object, &to, &token)
            })
        }
    )* };
}

grant_functions! {
    dmashare_export_grant Export;
    dmashare_shared_fence_grant SharedFence;
    dmashare_timeline_grant Timeline;
    dmashare_neutral_grant Neutral;
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_token_to_hex(token: In<Token>, hex: Out<[c_char; 33]>) -> c_int {
    call(|| {
        hex.check()?;
        let text = Token::read(&token)?.to_hex();
        let mut digits = [0; 33];
        for (to, byte) in digits.iter_mut().zip(text.bytes().take(32)) {
            *to = byte as c_char;
        }
        hex.put(digits);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_token_from_hex(hex: In<c_char>, token: Out<Token>) -> c_int {
    call(|| {
        token.check()?;
        let hex = hex.text().ok_or_else(|| Failure::invalid("the text is NULL"))?;
        let parsed: dmashare::Token = hex.to_string_lossy().parse()?;
        token.put(Token(parsed.to_bytes()));
        Ok(0)
    })
}
