#include "codec/arrow.hpp"

#include <algorithm>
#include <array>
#include <limits>

namespace monolith::codec {

namespace {

constexpr uint32_t kContinuation = 0xFFFFFFFF;
constexpr int16_t kVersion5 = 4;
constexpr size_t kOffsetBytes = sizeof(int32_t);

// Numbers of types in Schema.fbs.
enum Type : uint8_t { kInt = 2, kFloatingPoint = 3, kUtf8 = 5, kList = 12, kFixedSizeList = 16 };

bool is_int(const FlatTable& type, int32_t bits, bool is_signed) {
    return type.number<int32_t>(0) == bits && (type.number<uint8_t>(1) != 0) == is_signed;
}
bool is_float32(const FlatTable& type) { return type.number<int16_t>(0) == 1; }

// Check the item of a list: not null by its values, plain, named as pyarrow does.
FlatTable item_type(const FlatTable& field, Type expected) {
    const FlatVector children = field.vector(5, 4);
    require(children.size() == 1);
    const FlatTable item = children.table(0);
    require(item.text(0) == "item" && item.number<uint8_t>(1) != 0 && item.number<uint8_t>(2) == expected);
    require(!item.has(4) && item.vector(5, 4).size() == 0 && item.vector(6, 4).size() == 0);
    return item.table(3);
}

void read_dictionary(const FlatTable& field, Field& column) {
    const FlatTable encoding = field.table(4);
    require(field.number<uint8_t>(2) == kUtf8 && encoding.number<uint8_t>(2) == 0 && encoding.number<int16_t>(3) == 0);
    require(is_int(encoding.table(1), 32, true));
    column.type = ColumnType::kDictionary;
    column.dictionary_id = encoding.number<int64_t>(0);
}

Field read_field(const FlatTable& field) {
    Field column{field.text(0), ColumnType::kText};
    require(joiner::num_chars(column.name) != SIZE_MAX && field.vector(6, 4).size() == 0);
    const auto type = field.number<uint8_t>(2);
    const FlatTable details = field.table(3);
    field.number<uint8_t>(1);  // whether nulls are allowed: there are none
    if (type != kList && type != kFixedSizeList) require(field.vector(5, 4).size() == 0);
    if (field.has(4)) {
        read_dictionary(field, column);
    } else if (type == kInt) {
        const bool is_wide = is_int(details, 64, true);
        require(is_wide || is_int(details, 8, false));
        column.type = is_wide ? ColumnType::kInt64 : ColumnType::kUint8;
    } else if (type == kFloatingPoint) {
        require(is_float32(details));
        column.type = ColumnType::kFloat;
    } else if (type == kList) {
        require(is_int(item_type(field, kInt), 64, true));
        column.type = ColumnType::kBags;
    } else if (type == kFixedSizeList) {
        const auto width = details.number<int32_t>(0);
        require(width > 0 && is_float32(item_type(field, kFloatingPoint)));
        column.type = ColumnType::kDense;
        column.width = static_cast<size_t>(width);
    } else {
        require(type == kUtf8);
    }
    return column;
}

// Return whether all bytes are below 128.
bool is_ascii(std::string_view text) {
    uint64_t bits = 0;
    size_t at = 0;
    for (; at + sizeof bits <= text.size(); at += sizeof bits) bits |= joiner::load<uint64_t>(text.data() + at);
    for (; at < text.size(); ++at) bits |= static_cast<uint8_t>(text[at]);
    return (bits & 0x8080808080808080) == 0;
}

}  // namespace

std::optional<Message> MessageReader::next() {
    require(number_at<uint32_t>(stream_, at_) == kContinuation);
    const auto size = number_at<int32_t>(stream_, at_ + 4);
    at_ += 8;
    if (size == 0) {
        require(at_ == stream_.size());
        return std::nullopt;
    }
    require(size > 0 && size % 8 == 0 && stream_.size() - at_ >= static_cast<size_t>(size));
    const FlatTable message = FlatTable::root(stream_.substr(at_, static_cast<size_t>(size)));
    at_ += static_cast<size_t>(size);
    const auto body_bytes = message.number<int64_t>(3);
    require(message.number<int16_t>(0) == kVersion5 && body_bytes >= 0 && message.vector(4, 4).size() == 0);
    require(stream_.size() - at_ >= static_cast<uint64_t>(body_bytes));
    const std::string_view body = stream_.substr(at_, static_cast<size_t>(body_bytes));
    at_ += body.size();
    return Message{static_cast<MessageKind>(message.number<uint8_t>(1)), message.table(2), body};
}

std::vector<Field> read_fields(const FlatTable& schema) {
    require(schema.number<int16_t>(0) == 0 && !schema.has(3));  // little-endian, and no features that readers must know
    const FlatVector fields = schema.vector(1, 4);
    std::vector<Field> columns;
    columns.reserve(fields.size());
    for (size_t i = 0; i < fields.size(); ++i) columns.push_back(read_field(fields.table(i)));
    return columns;
}

BatchReader::BatchReader(const FlatTable& batch, std::string_view body)
    : body_(body), nodes_(batch.vector(1, 16)), buffers_(batch.vector(2, 16)) {
    const auto num_rows = batch.number<int64_t>(0);
    require(num_rows >= 0 && num_rows < std::numeric_limits<int32_t>::max());
    require(!batch.has(3) && batch.vector(4, 8).size() == 0);  // neither compressed nor views
    num_rows_ = static_cast<size_t>(num_rows);
}

const char* BatchReader::values(size_t value_bytes, size_t per_row) {
    const size_t num = num_rows_ * per_row;
    node(num);
    return buffer_of(num * value_bytes);
}

Texts BatchReader::texts() {
    node(num_rows_);
    size_t last = 0;
    Texts texts{num_rows_, offsets(last), buffer()};
    require(texts.bytes.size() >= last);
    texts.bytes = texts.bytes.substr(0, last);
    if (!is_ascii(texts.bytes))
        for (size_t row = 0; row < num_rows_; ++row) require(joiner::num_chars(texts.text(row)) != SIZE_MAX);
    return texts;
}

Bags BatchReader::bags() {
    node(num_rows_);
    size_t last = 0;
    Bags bags{offsets(last), nullptr};
    const size_t num_fids = child_node();
    require(num_fids >= last);
    bags.fids = buffer_of(num_fids * sizeof(int64_t));
    return bags;
}

const char* BatchReader::dense(size_t width) {
    node(num_rows_);
    return values(sizeof(float), width);
}

void BatchReader::finish() const { require(node_ == nodes_.size() && buffer_ == buffers_.size()); }

void BatchReader::node(size_t length) { require(child_node() == length); }

size_t BatchReader::child_node() {
    require(node_ < nodes_.size());
    const int64_t length = nodes_.number(node_, 0), nulls = nodes_.number(node_, 8);
    ++node_;
    require(length >= 0 && length < std::numeric_limits<int32_t>::max() && nulls == 0 && buffer().empty());
    return static_cast<size_t>(length);
}

std::string_view BatchReader::buffer() {
    require(buffer_ < buffers_.size());
    const int64_t at = buffers_.number(buffer_, 0), size = buffers_.number(buffer_, 8);
    ++buffer_;
    require(at >= 0 && at % 8 == 0 && size >= 0 && static_cast<uint64_t>(at) <= body_.size());
    require(static_cast<uint64_t>(size) <= body_.size() - static_cast<size_t>(at));
    return body_.substr(static_cast<size_t>(at), static_cast<size_t>(size));
}

const char* BatchReader::buffer_of(size_t num_bytes) {
    const std::string_view bytes = buffer();
    require(bytes.size() >= num_bytes);
    return bytes.data();
}

const char* BatchReader::offsets(size_t& last) {
    static constexpr std::array<char, kOffsetBytes> kNone{};
    const std::string_view bytes = buffer();
    if (num_rows_ == 0 && bytes.empty()) return kNone.data();  // an empty array need not have an offset
    require(bytes.size() >= (num_rows_ + 1) * kOffsetBytes);
    const auto offset = [&](size_t row) { return joiner::load<int32_t>(bytes.data() + row * kOffsetBytes); };
    int32_t falls = offset(0);
    for (size_t row = 0; row < num_rows_; ++row) falls |= offset(row + 1) < offset(row) ? -1 : 0;
    require(falls >= 0);
    last = static_cast<size_t>(offset(num_rows_));
    return bytes.data();
}

}  // namespace monolith::codec
