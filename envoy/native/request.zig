//! What a request's body asks for, and how to change it without touching any other byte.
const std = @import("std");
const scan = @import("scan.zig");

const longest_name = 256;
/// Output tokens of an answer whose request states no cap, as extproc/limits/settings.py estimates them.
const unstated = 4096;

/// A part of the body.
pub const Span = struct { from: usize, to: usize };

/// Bytes to write in the place of others.
pub const Edit = struct { span: Span, text: []const u8 };

pub const Asked = struct {
    /// The model's name as it is written, between its quotes.
    name: Span,
    stream: bool = false,
    /// Whether a server may take it for a stream, however that is written: `true` as a text, 1, twice, in capitals.
    may_stream: bool = false,
    /// Where the value of `stream_options` begins.
    options: ?usize = null,
    /// The most output tokens, over all choices; null if the client set no bound.
    cap: ?u64 = null,
};

/// Null if the body names no model, or more than one, or one that no policy can hold.
pub fn read(body: []const u8, content_type: []const u8) ?Asked {
    const asked = if (std.ascii.startsWithIgnoreCase(content_type, "multipart/"))
        readForm(body, boundary(content_type) orelse return null)
    else if (std.ascii.indexOfIgnoreCase(content_type, "json") != null)
        readJson(body)
    else
        null;
    const found = asked orelse return null;
    const length = found.name.to - found.name.from;
    return if (length == 0 or length > longest_name) null else found;
}

/// The name that is meant by what is written; null if it holds control characters.
pub fn modelName(body: []const u8, asked: Asked, room: *[longest_name]u8) ?[]const u8 {
    const name = scan.unescape(body[asked.name.from..asked.name.to], room);
    for (name) |byte| if (std.ascii.isControl(byte)) return null;
    return name;
}

/// Parsers disagree on which of two "model" (or "Model") keys counts, so a body with two has none: otherwise a client
/// could show one name here and another to the provider.
fn readJson(body: []const u8) ?Asked {
    const open = scan.skipSpace(body, 0);
    if (open == body.len or body[open] != '{') return null;
    var members: scan.Members = .{ .text = body, .at = open };
    var asked: Asked = .{ .name = .{ .from = 0, .to = 0 } };
    var models: usize = 0;
    var output: ?u64 = null;
    var choices: u64 = 1;
    var asking: u64 = 1;
    while (members.next()) |member| {
        var room: [64]u8 = undefined;
        const key = scan.decoded(member.key, &room);
        if (std.ascii.eqlIgnoreCase(key, "model")) {
            models += 1;
            asked.name = stringAt(body, member.value) orelse return null;
        } else if (std.ascii.eqlIgnoreCase(key, "stream")) {
            const value = body[member.value..];
            if (std.mem.eql(u8, key, "stream")) asked.stream = std.mem.startsWith(u8, value, "true");
            if (!std.mem.startsWith(u8, value, "false") and !std.mem.startsWith(u8, value, "null")) asked.may_stream = true;
        } else if (std.mem.eql(u8, key, "stream_options")) {
            asked.options = member.value;
        } else if (isCap(key)) {
            if (scan.whole(body, member.value)) |value| output = @max(output orelse 0, value);
        } else if (std.mem.eql(u8, key, "n") or std.mem.eql(u8, key, "best_of")) {
            choices = @max(choices, scan.whole(body, member.value) orelse 1);
        } else if (std.mem.eql(u8, key, "prompt")) {
            asking = @max(asking, prompts(body, member.value));
        }
    }
    if (models != 1 or (members.depth == 0 and scan.skipSpace(body, members.at) != body.len)) return null;
    const answers = choices *| asking;
    if (output) |value| asked.cap = value *| answers else if (answers > 1) asked.cap = unstated *| answers;
    return asked;
}

/// How many prompts a value holds: a list of texts, or of lists of tokens, gets an answer for each.
fn prompts(body: []const u8, open: usize) u64 {
    if (open == body.len or body[open] != '[') return 1;
    var count: u64 = 0;
    var depth: usize = 0;
    var at = open;
    while (scan.structural(body, at)) |place| {
        at = place + 1;
        switch (body[place]) {
            '{', '[' => {
                depth += 1;
                if (depth == 2) count += 1;
            },
            '}', ']' => {
                depth -= 1;
                if (depth == 0) break;
            },
            else => {
                if (depth == 1) count += 1;
                at = (scan.closingQuote(body, place) orelse break) + 1;
            },
        }
    }
    return count;
}

fn isCap(key: []const u8) bool {
    const names = .{ "max_tokens", "max_completion_tokens", "max_output_tokens" };
    inline for (names) |name| if (std.mem.eql(u8, key, name)) return true;
    return false;
}

fn stringAt(body: []const u8, open: usize) ?Span {
    if (open == body.len or body[open] != '"') return null;
    return .{ .from = open + 1, .to = scan.closingQuote(body, open) orelse return null };
}

/// The boundary that a multipart content type names (RFC 2046, 5.1.1).
fn boundary(content_type: []const u8) ?[]const u8 {
    const key = "boundary=";
    const at = (std.ascii.indexOfIgnoreCase(content_type, key) orelse return null) + key.len;
    const value = content_type[at..];
    const quoted = std.mem.startsWith(u8, value, "\"");
    const text = if (quoted) value[1..] else value;
    const end = std.mem.indexOfAny(u8, text, if (quoted) "\"" else "; \t") orelse text.len;
    return if (end == 0) null else text[0..end];
}

fn readForm(body: []const u8, mark: []const u8) ?Asked {
    var delimiter: [76]u8 = undefined; // two hyphens, and 70 characters at most
    if (mark.len > 70) return null;
    const line = std.fmt.bufPrint(&delimiter, "\r\n--{s}", .{mark}) catch return null;
    var name: ?Span = null;
    // The first delimiter may stand at the very beginning.
    var at = (scan.find(body, line[2..], 0) orelse return null) + line.len - 2;
    while (scan.find(body, "\r\n\r\n", at)) |head_end| {
        const from = head_end + 4;
        // An empty part's delimiter shares its line end with that of the head.
        const to = scan.find(body, line, from - 2) orelse break;
        if (isModelField(body[at .. head_end + 2])) {
            if (name != null) return null;
            name = .{ .from = from, .to = @max(from, to) };
        }
        at = to + line.len;
    }
    return .{ .name = name orelse return null };
}

/// Whether a part's head says `content-disposition: form-data; name=model` (RFC 7578, 4.2).
fn isModelField(head: []const u8) bool {
    var lines = std.mem.splitSequence(u8, head, "\r\n");
    while (lines.next()) |line| {
        const at = std.ascii.indexOfIgnoreCase(line, "form-data") orelse continue;
        var parameters = std.mem.splitScalar(u8, line[at..], ';');
        while (parameters.next()) |written| {
            const parameter = std.mem.trim(u8, written, " \t");
            if (!std.ascii.startsWithIgnoreCase(parameter, "name=")) continue;
            if (std.ascii.eqlIgnoreCase(std.mem.trim(u8, parameter["name=".len..], "\""), "model")) return true;
        }
    }
    return false;
}

/// How to ask for the stream's usage; null where the client asked itself, or wrote what the provider will refuse.
pub fn askForUsage(body: []const u8, asked: Asked) ?Edit {
    const after = asked.name.to + 1; // the name's closing quote
    const options = asked.options orelse
        return .{ .span = .{ .from = after, .to = after }, .text = ",\"stream_options\":{\"include_usage\":true}" };
    if (std.mem.startsWith(u8, body[options..], "null"))
        return .{ .span = .{ .from = options, .to = options + 4 }, .text = "{\"include_usage\":true}" };
    if (options == body.len or body[options] != '{') return null;
    var members: scan.Members = .{ .text = body, .at = options };
    var set: ?usize = null;
    while (members.next()) |member| {
        var room: [64]u8 = undefined;
        if (std.mem.eql(u8, scan.decoded(member.key, &room), "include_usage")) set = member.value;
    }
    if (members.depth != 0) return null; // it does not end
    const value = set orelse {
        const empty = body[scan.skipSpace(body, options + 1)] == '}';
        const text = if (empty) "\"include_usage\":true" else "\"include_usage\":true,";
        return .{ .span = .{ .from = options + 1, .to = options + 1 }, .text = text };
    };
    inline for (.{ "false", "null" }) |word|
        if (std.mem.startsWith(u8, body[value..], word))
            return .{ .span = .{ .from = value, .to = value + word.len }, .text = "true" };
    return null;
}

/// The body with its edits, which must not overlap.
pub fn changed(memory: std.mem.Allocator, body: []const u8, one: Edit, other: ?Edit) ![]u8 {
    var edits = [2]Edit{ one, other orelse .{ .span = .{ .from = body.len, .to = body.len }, .text = "" } };
    if (edits[1].span.from < edits[0].span.from) std.mem.swap(Edit, &edits[0], &edits[1]);
    const first, const last = edits;
    return std.mem.concat(memory, u8, &.{
        body[0..first.span.from], first.text, body[first.span.to..last.span.from], last.text, body[last.span.to..],
    });
}
