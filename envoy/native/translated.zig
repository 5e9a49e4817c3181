//! The filter behind the one that has attempts translated: ends an attempt whose request is not. The service that
//! translates marks what it has seen to; should it be gone, Envoy would send the rest as it is.
const abi = @import("abi.zig");

/// Of requests and answers; nobody else ever sees it.
const header = "x-headgate-translated";
/// Before each part of a translated body.
pub const part = 0x1e;
/// Why an attempt ended, as Envoy's log tells it.
pub const lost = "headgate_translation_lost";

pub const Config = struct {
    /// Null for any text: there is nothing to be told.
    pub fn read(text: []const u8) ?Config {
        return if (text.len == 0) .{} else null;
    }
};

pub const Filter = struct {
    stream: abi.Stream,
    config: *const Config,

    /// False: the attempt is over, and the filter with it.
    pub fn passes(self: *Filter) bool {
        if (marked(self.stream, .request)) {
            unmark(self.stream, .request);
            return true;
        }
        abi.endAttempt(self.stream, lost);
        return false;
    }
};

pub fn marked(stream: abi.Stream, which: abi.Headers) bool {
    return abi.header(stream, which, header).len > 0;
}

pub fn unmark(stream: abi.Stream, which: abi.Headers) void {
    abi.removeHeader(stream, which, header);
}
