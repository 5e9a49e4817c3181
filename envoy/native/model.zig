//! The filter of the edge. Reads the model that a request asks for into a header, so that routes and permissions can
//! match on it, renames it where the route says so, asks for the usage of streams, and reads the usage of the answer.
//! What the access log and limits need of it all is left in dynamic metadata.
const std = @import("std");
const abi = @import("abi.zig");
const answers = @import("answer.zig");
const requests = @import("request.zig");

const memory = std.heap.c_allocator;
const Text = std.ArrayList(u8);

const namespace = "headgate";
/// Parts the fields of the log's lines; no header and no usage can hold it.
const separator = 0x1f;

const client_header = "x-headgate-client";
const model_header = "x-headgate-model";
const instead_header = "x-headgate-instead";
const cap_header = "x-headgate-cap";
const stream_header = "x-headgate-stream";

/// What the filter's configuration says: words, parted by spaces.
pub const Config = struct {
    /// Strict limits need a request's output cap in a header, and the counts of its answer as numbers.
    limits: bool = false,
    /// Rules need to know whether a stream is asked for, to have its answer shown to them as one.
    rules: bool = false,

    /// Null for a word that is unknown.
    pub fn read(text: []const u8) ?Config {
        var made: Config = .{};
        var words = std.mem.tokenizeScalar(u8, text, ' ');
        while (words.next()) |word| {
            if (std.mem.eql(u8, word, "limits")) {
                made.limits = true;
            } else if (std.mem.eql(u8, word, "rules")) {
                made.rules = true;
            } else return null;
        }
        return made;
    }
};

const Answer = union(enum) { unread, document: answers.Document, events: answers.Events };

pub const Filter = struct {
    stream: abi.Stream,
    config: *const Config,
    /// Client, model, and what is served in its place, each followed by a separator; empty without a model.
    entry: Text = .empty,
    hide: bool = false,
    /// Whether the answer's headers wait for its body: a rule may still put an error in its place.
    holds: bool = false,
    answer: Answer = .unread,
    said: answers.Said = .{},
    finished: bool = false,

    pub fn free(self: *Filter) !void {
        switch (self.answer) {
            .unread => {},
            inline else => |*read| read.free(memory),
        }
        self.said.free(memory);
        self.entry.deinit(memory);
    }

    pub fn wantsBody(_: *Filter) bool {
        return true;
    }

    pub fn onRequest(self: *Filter, parts: []const abi.Body) !void {
        var copy: Text = .empty;
        defer copy.deinit(memory);
        const body = try abi.body(self.stream, parts, memory, &copy);
        const content_type = abi.header(self.stream, .request, "content-type");
        const asked = requests.read(body, content_type) orelse return;
        var room: [256]u8 = undefined;
        const model = requests.modelName(body, asked, &room) orelse return;
        const instead = try self.enter(model); // a budget is spent: serve a cheaper model
        if (self.config.limits) try self.setCap(asked);
        // Attempts may change the path before an error has to be told in the client's dialect.
        if (std.mem.startsWith(u8, abi.header(self.stream, .request, ":path"), "/v1/messages"))
            abi.note(self.stream, namespace, "dialect", "anthropic");
        if (self.config.rules and asked.may_stream) abi.setHeader(self.stream, .request, stream_header, "1");
        abi.setHeader(self.stream, .request, model_header, instead orelse model);
        abi.pickRoute(self.stream);
        // Now, since a rule may choose another route.
        self.holds = self.config.rules and abi.routeMetadata(self.stream, "model", "hold") != null;
        const upstream = abi.routeMetadata(self.stream, "model", "model") orelse instead;
        const rename: ?requests.Edit = if (upstream) |name| .{ .span = asked.name, .text = name } else null;
        const ask = if (asked.stream and self.mayAsk(content_type)) requests.askForUsage(body, asked) else null;
        self.hide = ask != null;
        const edit = rename orelse ask orelse return;
        const changed = try requests.changed(memory, body, edit, if (rename != null) ask else null);
        defer memory.free(changed);
        abi.replaceBody(self.stream, parts, changed);
        try abi.setCount(self.stream, "content-length", changed.len);
    }

    /// Keeps what the log's entry says of the request. The model to serve instead of the one asked for, if any.
    fn enter(self: *Filter, model: []const u8) !?[]const u8 {
        const client = abi.header(self.stream, .request, client_header);
        const instead = abi.header(self.stream, .request, instead_header);
        for ([_][]const u8{ client, model, instead }) |part| {
            try self.entry.appendSlice(memory, part);
            try self.entry.append(memory, separator);
        }
        const end = self.entry.items.len - 1;
        return if (instead.len == 0) null else self.entry.items[end - instead.len .. end];
    }

    fn setCap(self: *Filter, asked: requests.Asked) !void {
        const embeds = std.mem.startsWith(u8, abi.header(self.stream, .request, ":path"), "/v1/embeddings");
        const cap = if (embeds) 0 else asked.cap orelse return;
        try abi.setCount(self.stream, cap_header, cap);
    }

    /// Only completions take `stream_options`, and not every server.
    fn mayAsk(self: *Filter, content_type: []const u8) bool {
        const path = abi.header(self.stream, .request, ":path");
        const completion = std.mem.startsWith(u8, path, "/v1/chat/completions") or
            std.mem.startsWith(u8, path, "/v1/completions");
        if (!completion or std.ascii.startsWithIgnoreCase(content_type, "multipart/")) return false;
        const may = abi.routeMetadata(self.stream, "model", "stream_usage") orelse return true;
        return !std.mem.eql(u8, may, "never");
    }

    pub fn onAnswer(self: *Filter) !void {
        if (self.answer != .unread) return; // one answer is read, whatever follows
        const content_type = abi.header(self.stream, .response, "content-type");
        if (std.ascii.indexOfIgnoreCase(content_type, "json") != null) {
            self.answer = .{ .document = .{} };
        } else if (std.ascii.indexOfIgnoreCase(content_type, "event-stream") != null) {
            const encoded = abi.header(self.stream, .response, "content-encoding").len > 0;
            self.answer = .{ .events = .{ .hide = self.hide and !encoded } };
            if (self.answer.events.hide) abi.removeHeader(self.stream, .response, "content-length");
        }
    }

    pub fn onAnswerBody(self: *Filter, ends: bool) !void {
        if (self.answer == .unread) return;
        var copy: Text = .empty;
        defer copy.deinit(memory);
        const arrived: []const abi.Body = &.{.received_response};
        const chunk = try abi.body(self.stream, arrived, memory, &copy);
        switch (self.answer) {
            .unread => unreachable,
            .document => |*document| try document.feed(memory, chunk),
            .events => |*events| {
                if (try events.feed(memory, chunk, &self.said)) |instead|
                    abi.replaceBody(self.stream, arrived, instead);
                if (ends) abi.appendBody(self.stream, .received_response, events.finish());
            },
        }
        if (ends) try self.finish();
    }

    pub fn onAnswerTrailers(self: *Filter) !void {
        if (self.answer == .events) abi.appendBody(self.stream, .buffered_response, self.answer.events.finish());
        try self.finish();
    }

    /// The answer is at its end, or as far as it will come.
    fn finish(self: *Filter) !void {
        if (self.finished) return;
        self.finished = true;
        if (self.answer == .document) try self.answer.document.read(memory, &self.said);
        if (!self.config.limits or self.said.usage.items.len == 0) return;
        const counts = answers.Counts.of(&self.said);
        abi.noteNumber(self.stream, namespace, "input_tokens", counts.input);
        abi.noteNumber(self.stream, namespace, "output_tokens", counts.output);
        abi.noteNumber(self.stream, namespace, "cached_tokens", counts.cached);
        abi.noteNumber(self.stream, namespace, "cache_write_tokens", counts.written);
        abi.noteNumber(self.stream, namespace, "total_tokens", counts.total);
    }

    pub fn onEnd(self: *Filter) !void {
        try self.finish();
        if (self.entry.items.len == 0) return;
        try self.entry.appendSlice(memory, self.said.model.items);
        for ([_][]const u8{ self.said.earlier(), self.said.usage.items }) |usage| {
            if (usage.len == 0) continue;
            try self.entry.append(memory, separator);
            try self.entry.appendSlice(memory, usage);
        }
        abi.note(self.stream, namespace, "entry", self.entry.items);
    }
};
