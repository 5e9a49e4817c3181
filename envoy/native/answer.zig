//! Reads from an answer what it says about its model and its usage, and takes out of a stream the event that holds
//! nothing but a usage that the client did not ask for. No more than one unfinished event is ever held back.
const std = @import("std");
const scan = @import("scan.zig");

/// Bytes at either end of an answer in which its usage is looked for; also the longest usage, and the longest event
/// that may be one that holds nothing else.
const kept = 4096;

const Memory = std.mem.Allocator;
const Text = std.ArrayList(u8);

/// What an answer has said so far.
pub const Said = struct {
    model: Text = .empty,
    usage: Text = .empty,
    /// That at the start of an Anthropic message, which says what went in; the one at its end, what came out.
    first: Text = .empty,

    pub fn free(self: *Said, memory: Memory) void {
        self.model.deinit(memory);
        self.usage.deinit(memory);
        self.first.deinit(memory);
    }

    /// The usage at the start, if the one at the end is another.
    pub fn earlier(self: *const Said) []const u8 {
        return if (std.mem.eql(u8, self.first.items, self.usage.items)) "" else self.first.items;
    }

    fn readModel(self: *Said, memory: Memory, text: []const u8) !void {
        if (self.model.items.len == 0) try set(memory, &self.model, modelIn(text) orelse return);
    }
};

fn set(memory: Memory, text: *Text, to: []const u8) !void {
    text.clearRetainingCapacity();
    try text.appendSlice(memory, to);
    // Line ends and their like, which may stand between tokens, would break the log's lines.
    for (text.items) |*byte| {
        if (byte.* < ' ') byte.* = ' ';
    }
}

/// An answer that is one JSON text, or several, one a line.
pub const Document = struct {
    /// The answer's beginning and its end; what lies between is left out when `cut`.
    text: Text = .empty,
    cut: bool = false,

    pub fn free(self: *Document, memory: Memory) void {
        self.text.deinit(memory);
    }

    pub fn feed(self: *Document, memory: Memory, chunk: []const u8) !void {
        const head = chunk[0..@min(kept -| self.text.items.len, chunk.len)];
        try self.text.appendSlice(memory, head);
        const rest = chunk[head.len..];
        if (rest.len > kept) self.drop(self.text.items.len);
        try self.text.appendSlice(memory, rest[rest.len -| kept..]);
        if (self.text.items.len > 3 * kept) self.drop(self.text.items.len - kept);
    }

    /// Leaves out what lies between the beginning and a place.
    fn drop(self: *Document, to: usize) void {
        self.text.replaceRangeAssumeCapacity(kept, to - kept, "");
        self.cut = true;
    }

    pub fn read(self: *const Document, memory: Memory, said: *Said) !void {
        const text = self.text.items;
        const head = if (self.cut) text[0..kept] else text;
        const tail = if (self.cut) text[kept..] else text;
        // Mistral states the usage first. Cohere's rerankings have a "meta" instead.
        const usage = objects(tail, "\"usage\"").last orelse objects(head, "\"usage\"").last orelse
            objects(tail, "\"meta\"").last;
        if (usage) |found| try set(memory, &said.usage, found);
        try said.readModel(memory, head);
        try said.readModel(memory, tail);
    }
};

/// A stream of server-sent events. An event may be split over chunks, so the last one waits for its end: for being
/// looked at always, for being sent only where it may have to be taken out.
pub const Events = struct {
    hide: bool,
    /// The end of what has arrived: the unfinished event, or no more of it than `kept`; of which `sent` have been sent.
    rest: Text = .empty,
    sent: usize = 0,
    joined: Text = .empty,
    out: Text = .empty,

    pub fn free(self: *Events, memory: Memory) void {
        self.rest.deinit(memory);
        self.joined.deinit(memory);
        self.out.deinit(memory);
    }

    /// Reads a chunk. What to send in its place; null: the chunk as it is.
    pub fn feed(self: *Events, memory: Memory, chunk: []const u8, said: *Said) !?[]const u8 {
        if (chunk.len == 0) return null;
        const text = try self.join(memory, chunk);
        try said.readModel(memory, text);
        const told = try readUsage(memory, text, said);
        const open = openEvent(text);
        const changed = self.hide and try self.select(memory, text, open orelse text.len, told);
        const held = text[open orelse text.len - kept ..];
        self.sent = if (self.hide and open != null) 0 else held.len;
        self.rest.clearRetainingCapacity();
        try self.rest.appendSlice(memory, held);
        return if (changed) self.out.items else null;
    }

    /// What is still to be sent at the stream's end.
    pub fn finish(self: *Events) []const u8 {
        const left = self.rest.items;
        defer self.sent = left.len;
        return if (onlyUsage(left)) "" else left[self.sent..];
    }

    fn join(self: *Events, memory: Memory, chunk: []const u8) ![]const u8 {
        if (self.rest.items.len == 0) return chunk;
        self.joined.clearRetainingCapacity();
        try self.joined.appendSlice(memory, self.rest.items);
        try self.joined.appendSlice(memory, chunk);
        return self.joined.items;
    }

    /// Puts into `out` what may be sent of the text up to a place; false if that is the chunk as it is. An event of
    /// which a part has been sent stays.
    fn select(self: *Events, memory: Memory, text: []const u8, to: usize, told: bool) !bool {
        self.out.clearRetainingCapacity();
        var copied = self.sent;
        var start: usize = 0;
        var key = if (told) quoted(text, "\"usage\"", 0) else null;
        while (key) |at| {
            if (at >= to) break;
            const end = @min(to, eventEnd(text, start) orelse to);
            if (at <= end) {
                if (start >= self.sent and onlyUsage(text[start..end])) {
                    try self.out.appendSlice(memory, text[copied..start]);
                    copied = end;
                }
                key = quoted(text, "\"usage\"", end);
            }
            start = end;
        }
        if (copied == self.sent and self.sent == self.rest.items.len and to == text.len) return false;
        try self.out.appendSlice(memory, text[copied..to]);
        return true;
    }
};

fn readUsage(memory: Memory, text: []const u8, said: *Said) !bool {
    const found = objects(text, "\"usage\"");
    const usage = found.last orelse return false;
    if (said.usage.items.len == 0 and scan.find(text, "\"message_start\"", 0) != null)
        try set(memory, &said.first, found.first.?);
    try set(memory, &said.usage, usage);
    return true;
}

/// Behind the next such name in quotes. A quote within a string has a backslash before it, so any other is a key or a
/// whole string, wherever it stands.
fn quoted(text: []const u8, name: []const u8, from: usize) ?usize {
    var at = from;
    while (scan.find(text, name, at)) |place| {
        at = place + name.len;
        if (place == 0 or text[place - 1] != '\\') return at;
    }
    return null;
}

const Objects = struct { first: ?[]const u8 = null, last: ?[]const u8 = null };

/// The first and the last small object of that name, none within another. One that does not end is the last to be
/// looked at.
fn objects(text: []const u8, name: []const u8) Objects {
    var found: Objects = .{};
    var at: usize = 0;
    while (quoted(text, name, at)) |behind| {
        at = behind;
        const open = scan.valueAfter(text, behind) orelse continue;
        if (open == text.len or text[open] != '{') continue;
        at = scan.objectEnd(text, open) orelse break;
        if (at - open > kept) continue;
        found.last = text[open..at];
        if (found.first == null) found.first = found.last;
    }
    return found;
}

fn modelIn(text: []const u8) ?[]const u8 {
    const open = scan.valueAfter(text, quoted(text, "\"model\"", 0) orelse return null) orelse return null;
    if (open == text.len or text[open] != '"') return null;
    const name = text[open + 1 .. scan.closingQuote(text, open) orelse return null];
    for (name) |byte| if (byte == '\\' or std.ascii.isControl(byte)) return null;
    return name;
}

/// Behind the blank line that ends the event.
fn eventEnd(text: []const u8, from: usize) ?usize {
    var at = from;
    while (std.mem.indexOfScalarPos(u8, text, at, '\n')) |line| : (at = line + 1) {
        if (std.mem.startsWith(u8, text[line + 1 ..], "\n")) return line + 2;
        if (std.mem.startsWith(u8, text[line + 1 ..], "\r\n")) return line + 3;
    }
    return null;
}

/// Where the event begins that the text ends within: its end if there is none, null if it is longer than `kept`.
fn openEvent(text: []const u8) ?usize {
    const from = text.len -| kept;
    var at = text.len;
    while (std.mem.lastIndexOfScalar(u8, text[from..at], '\n')) |found| {
        at = from + found;
        const before = if (at > from and text[at - 1] == '\r') at - 1 else at;
        if (before > from and text[before - 1] == '\n') return at + 1;
    }
    return if (from == 0) 0 else null;
}

fn onlyUsage(event: []const u8) bool {
    return holds(event, "\"usage\"", "{") and holds(event, "\"choices\"", "[]");
}

/// Whether a key in quotes has a value that begins with these bytes, white space aside.
fn holds(text: []const u8, key: []const u8, value: []const u8) bool {
    var at: usize = 0;
    while (scan.find(text, key, at)) |place| {
        at = place + key.len;
        var next = scan.valueAfter(text, at) orelse continue;
        for (value) |byte| {
            next = scan.skipSpace(text, next);
            if (next == text.len or text[next] != byte) break;
            next += 1;
        } else return true;
    }
    return false;
}

/// Counts of a usage, for limits that are settled at once; what charges by name is read from the log.
pub const Counts = struct {
    input: u64 = 0,
    output: u64 = 0,
    cached: u64 = 0,
    /// To a cache; part of the input, as those cached are.
    written: u64 = 0,
    total: u64 = 0,

    pub fn of(said: *const Said) Counts {
        var found: Found = .{};
        found.add(said.first.items);
        found.add(said.usage.items);
        // Anthropic's input leaves out what its cache had part in; elsewhere the cached tokens are part of it.
        const input = found.input +| found.cache_read +| found.cache_written;
        const total = @max(found.total, input +| found.output);
        return .{
            .input = input,
            .output = found.output,
            .cached = found.cached +| found.cache_read,
            .written = found.written +| found.cache_written,
            .total = total,
        };
    }
};

const Found = struct {
    input: u64 = 0,
    output: u64 = 0,
    cached: u64 = 0,
    cache_read: u64 = 0,
    cache_written: u64 = 0,
    written: u64 = 0,
    total: u64 = 0,

    const fields = .{
        .{ "prompt_tokens", "input" },                .{ "input_tokens", "input" },
        .{ "completion_tokens", "output" },           .{ "output_tokens", "output" },
        .{ "prompt_cache_hit_tokens", "cached" },     .{ "total_tokens", "total" },
        .{ "cache_read_input_tokens", "cache_read" }, .{ "cache_creation_input_tokens", "cache_written" },
    };
    const details = .{ "prompt_tokens_details", "input_tokens_details" };

    fn add(self: *Found, usage: []const u8) void {
        var members: scan.Members = .{ .text = usage, .at = 0 };
        while (members.next()) |member| {
            inline for (fields) |field| if (std.mem.eql(u8, member.key, field[0])) {
                if (scan.whole(usage, member.value)) |value| @field(self, field[1]) = value;
            };
            inline for (details) |name| if (std.mem.eql(u8, member.key, name)) self.addDetails(usage, member.value);
        }
    }

    fn addDetails(self: *Found, usage: []const u8, open: usize) void {
        if (open == usage.len or usage[open] != '{') return;
        var members: scan.Members = .{ .text = usage, .at = open };
        const parts = .{ .{ "cached_tokens", "cached" }, .{ "cache_write_tokens", "written" } };
        while (members.next()) |member| inline for (parts) |part| if (std.mem.eql(u8, member.key, part[0])) {
            if (scan.whole(usage, member.value)) |value| @field(self, part[1]) = value;
        };
    }
};
