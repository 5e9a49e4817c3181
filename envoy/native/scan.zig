//! Finding things in JSON texts without parsing them: where strings end, how deep a place is, what a key's value is.
//! Nothing here fails; a text that is not JSON has nothing to be found in. All of it takes time linear in the text.
const std = @import("std");

const Lanes = @Vector(16, u8);
const Mask = u16;

fn equal(lanes: Lanes, byte: u8) Mask {
    return @bitCast(lanes == @as(Lanes, @splat(byte)));
}

/// The next quote, bracket or brace.
pub fn structural(text: []const u8, from: usize) ?usize {
    var at = from;
    while (at + 16 <= text.len) : (at += 16) {
        const lanes: Lanes = text[at..][0..16].*;
        const folded = lanes | @as(Lanes, @splat(0x20)); // `[` and `{`, `]` and `}` differ in this bit
        const hits = equal(lanes, '"') | equal(folded, '{') | equal(folded, '}');
        if (hits != 0) return at + @ctz(hits);
    }
    while (at < text.len) : (at += 1) switch (text[at]) {
        '"', '{', '}', '[', ']' => return at,
        else => {},
    };
    return null;
}

/// Where `needle`, of two bytes or more, stands next.
pub fn find(text: []const u8, needle: []const u8, from: usize) ?usize {
    var at = from;
    while (at + 17 <= text.len) : (at += 16) {
        const firsts: Lanes = text[at..][0..16].*;
        const seconds: Lanes = text[at + 1 ..][0..16].*;
        var hits = equal(firsts, needle[0]) & equal(seconds, needle[1]);
        while (hits != 0) : (hits &= hits - 1) {
            const place = at + @ctz(hits);
            if (std.mem.startsWith(u8, text[place..], needle)) return place;
        }
    }
    while (at < text.len) : (at += 1) if (std.mem.startsWith(u8, text[at..], needle)) return at;
    return null;
}

/// The quote that ends the string whose first quote is at `open`.
pub fn closingQuote(text: []const u8, open: usize) ?usize {
    var at = open;
    while (true) {
        at = std.mem.indexOfScalarPos(u8, text, at + 1, '"') orelse return null;
        var before = at;
        while (text[before - 1] == '\\') before -= 1;
        if ((at - before) % 2 == 0) return at;
    }
}

/// The first place at or behind `from` that is no white space; the text's length if there is none.
pub fn skipSpace(text: []const u8, from: usize) usize {
    var at = from;
    while (at < text.len and std.ascii.isWhitespace(text[at])) at += 1;
    return at;
}

/// Where the value begins if a colon follows a key that ends before `from`.
pub fn valueAfter(text: []const u8, from: usize) ?usize {
    const colon = skipSpace(text, from);
    return if (colon < text.len and text[colon] == ':') skipSpace(text, colon + 1) else null;
}

/// Behind the brace that ends the object that begins at `open`.
pub fn objectEnd(text: []const u8, open: usize) ?usize {
    var at = open;
    var depth: usize = 0;
    while (structural(text, at)) |place| {
        at = place + 1;
        switch (text[place]) {
            '"' => at = (closingQuote(text, place) orelse return null) + 1,
            '{', '[' => depth += 1,
            else => {
                depth -|= 1;
                if (depth == 0) return at;
            },
        }
    }
    return null;
}

/// A key of an object, and where its value begins.
pub const Member = struct { key: []const u8, value: usize };

/// Goes through the members of the object at `open`, and of no object within it.
pub const Members = struct {
    text: []const u8,
    at: usize,
    depth: usize = 0,

    pub fn next(self: *Members) ?Member {
        while (structural(self.text, self.at)) |place| {
            self.at = place + 1;
            switch (self.text[place]) {
                '{', '[' => self.depth += 1,
                '}', ']' => {
                    self.depth -|= 1;
                    if (self.depth == 0) return null;
                },
                else => {
                    const close = closingQuote(self.text, place) orelse return null;
                    self.at = close + 1;
                    if (self.depth != 1) continue;
                    if (valueAfter(self.text, self.at)) |value| {
                        self.at = value;
                        return .{ .key = self.text[place + 1 .. close], .value = value };
                    }
                },
            }
        }
        return null;
    }
};

/// Decodes a string's escapes into `into`, as far as there is room. What is not ASCII is no part of a name and becomes
/// a question mark.
pub fn unescape(raw: []const u8, into: []u8) []const u8 {
    var length: usize = 0;
    var at: usize = 0;
    while (at < raw.len and length < into.len) : (length += 1) {
        const escaped = raw[at] == '\\' and at + 1 < raw.len;
        into[length] = if (!escaped) raw[at] else switch (raw[at + 1]) {
            'b' => 8,
            'f' => 12,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => code: {
                if (at + 6 > raw.len) break :code 'u';
                const point = std.fmt.parseInt(u16, raw[at + 2 .. at + 6], 16) catch break :code 'u';
                at += 4;
                break :code if (point < 128) @intCast(point) else '?';
            },
            else => |byte| byte,
        };
        at += if (escaped) 2 else 1;
    }
    return into[0..length];
}

/// A key without escapes: itself where it has none. One that fills the room is longer than any name.
pub fn decoded(key: []const u8, room: *[64]u8) []const u8 {
    return if (std.mem.indexOfScalar(u8, key, '\\') == null) key else unescape(key, room);
}

/// The number that begins at `from`, if it is a whole one; fractions of zero are allowed.
pub fn whole(text: []const u8, from: usize) ?u64 {
    var at = from;
    var value: u64 = 0;
    while (at < text.len and std.ascii.isDigit(text[at])) : (at += 1) value = value *| 10 +| (text[at] - '0');
    if (at == from) return null;
    if (at < text.len and text[at] == '.') {
        at += 1;
        while (at < text.len and text[at] == '0') at += 1;
    }
    const ends = at == text.len or std.mem.indexOfScalar(u8, ",}] \t\r\n", text[at]) != null;
    return if (ends) value else null;
}
