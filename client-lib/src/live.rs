//! What tells in two loads whether an import can be used.

use dmashare_proto::state_page::Word;
use dmashare_uapi::memfd::PageWord;

use crate::device::Device;
use crate::holding::Taken;

/// The device's word, and the import's own flag: the state page says nothing of an import that was taken
/// back from this client alone (a rehearsal, another connection), or that has faulted. A copy is in every
/// mapping, so that nothing else is looked at there.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    word: PageWord,
    /// The word of the device when it came.
    then: Word,
    taken: Taken,
}

impl Live {
    /// Of a neutral buffer's word there is no other value.
    pub(crate) fn new(device: Option<&Device>, taken: Taken) -> Self {
        let (word, then) = device.map_or((PageWord::zero(), Word(0)), Device::live);
        Self { word, then, taken }
    }

    /// Two loads, and nothing is written.
    #[inline]
    pub(crate) fn is_good(&self) -> bool {
        // Not by a shorter circuit: two loads at once are faster than one after the other.
        Word(self.word.load()).is_usable_since(self.then) & !self.taken.is_set()
    }

    /// The same, after whatever was read from the memory before: zeros are never taken for good.
    #[inline]
    pub(crate) fn is_good_after_reads(&self) -> bool {
        // Its fence is one for both.
        let taken = self.taken.is_set_after_reads();
        Word(self.word.load()).is_usable_since(self.then) & !taken
    }
}
