"""Every code and what it is called. A code never changes its meaning; a page of `explain/` goes with each."""

from __future__ import annotations

# VG00 reading
BAD_TOML = "VG0001"
NOT_TEXT = "VG0002"
NOT_FOUND = "VG0003"
BAD_EXTENDS = "VG0004"
EXTENDS_CYCLE = "VG0005"
# VG01 the structure of a spec
UNKNOWN_KEY = "VG0101"
MISSING_KEY = "VG0102"
WRONG_VALUE = "VG0103"
BAD_NAME = "VG0104"
UNKNOWN_SIZE = "VG0105"
UNKNOWN_VARIANT = "VG0106"
BAD_OVERRIDE = "VG0107"
BAD_VERSION = "VG0108"
UNKNOWN_STAGE = "VG0109"
# VG02 components, presets, plugins
UNKNOWN_COMPONENT = "VG0201"
UNKNOWN_PRESET = "VG0202"
PRESET_WRONG_TYPE = "VG0203"
UNKNOWN_FIELD = "VG0204"
INVALID_FIELD = "VG0205"
HEADS_NOT_DIVIDING = "VG0206"
KV_HEADS_NOT_DIVIDING = "VG0207"
UNKNOWN_TOKEN = "VG0208"
TOKEN_OUTSIDE = "VG0209"
REFERENCE_CYCLE = "VG0210"
PLUGIN_CLASH = "VG0211"
PLUGIN_IMPORT = "VG0212"
PLUGIN_API = "VG0213"
UNKNOWN_BLOCK = "VG0214"
UNKNOWN_FACET = "VG0215"
UNKNOWN_OPTION = "VG0216"
BUILD_FAILED = "VG0217"
PLUGIN_FAULT = "VG0218"
# VG03 the graph
BAD_EDGE = "VG0301"
UNKNOWN_NODE = "VG0302"
UNKNOWN_PORT = "VG0303"
UNDECLARED_OUTPUT = "VG0304"
TWO_EDGES = "VG0305"
NOT_A_LIST_PORT = "VG0306"
DANGLING_PORT = "VG0307"
CYCLE = "VG0308"
OUTPUT_NOT_FED = "VG0309"
BAD_TAP = "VG0310"
BAD_SLICE = "VG0311"
EMPTY_GRAPH = "VG0312"
BAD_TIE = "VG0313"
TIE_SHAPES = "VG0314"
UNUSED_INPUT = "VG0315"
BAD_GRAPH_TEXT = "VG0316"
INVALID_GRAPH = "VG0317"
BAD_PIPELINE = "VG0318"
# VG04 types and dims
BAD_TYPE = "VG0401"
BAD_DIMENSION = "VG0402"
KIND_MISMATCH = "VG0403"
RANK_MISMATCH = "VG0404"
WRONG_WIDTH = "VG0405"
WRONG_TOKEN_COUNT = "VG0406"
WRONG_IMAGE_SIZE = "VG0407"
WRONG_DIM = "VG0408"
NOT_DIVISIBLE = "VG0409"
CANNOT_INFER = "VG0410"
OUTPUT_TYPE = "VG0411"
EXPECT_PARAMS = "VG0412"
EXPECT_TOKENS = "VG0413"
# VG05 programs, objectives, stages
PROGRAM_OUTPUT = "VG0501"
PROGRAM_INPUT = "VG0502"
PROGRAM_CACHE = "VG0503"
PROGRAM_FROM = "VG0504"
EMPTY_PROGRAM = "VG0505"
OBJECTIVE_UNBOUND = "VG0506"
UNKNOWN_OBJECTIVE = "VG0507"
NOTHING_TRAINS = "VG0508"
UNKNOWN_ADDRESS = "VG0509"
STAGE_ORDER = "VG0510"
STAGE_INIT = "VG0511"
PROCEDURE_PROGRAM = "VG0512"
UNKNOWN_PROCEDURE = "VG0513"
CANNOT_TRAIN = "VG0514"
# VG06 checkpoints
NO_CHECKPOINT = "VG0601"
BAD_CONFIG = "VG0602"
UNKNOWN_MODEL_TYPE = "VG0603"
CONFIG_VALUE = "VG0604"
CONFIG_KEY = "VG0605"
BAD_WEIGHTS = "VG0606"
MISSING_SHARD = "VG0607"
PICKLED_WEIGHTS = "VG0608"
MISSING_WEIGHT = "VG0609"
UNEXPECTED_WEIGHT = "VG0610"
WEIGHT_SHAPE = "VG0611"
WEIGHT_DTYPE = "VG0612"
TIED_DIFFER = "VG0613"
BAD_LAYOUT = "VG0614"
CANNOT_SAVE = "VG0615"
# VG07 processors and inputs at run time; VG0701 to VG0717 are raised under the names of `processor/problems.py`
PROCESSOR_TABLE = "VG0701"
IMAGE_OPEN = "VG0702"
NOT_AN_IMAGE = "VG0703"
IMAGE_DAMAGED = "VG0704"
IMAGE_TOO_LARGE = "VG0705"
IMAGE_EMPTY = "VG0706"
IMAGE_SHAPE = "VG0707"
IMAGE_COUNT = "VG0708"
TEXT_TOO_LONG = "VG0709"
BAD_TOKENIZER = "VG0710"
NO_TOKENIZER = "VG0711"
BAD_TEMPLATE = "VG0712"
PROCESSOR_CALL = "VG0713"
BAD_BOXES = "VG0714"
PROCESSOR_TOKEN = "VG0715"
PROCESSOR_NAME = "VG0716"
PROCESSOR_SIZE = "VG0717"
UNKNOWN_INPUT = "VG0721"
MISSING_INPUT = "VG0722"
BAD_INPUT_SHAPE = "VG0723"
BAD_INPUT_VALUE = "VG0724"
NO_GENERATE = "VG0725"
BAD_INPUT_DTYPE = "VG0726"
BAD_OPTION = "VG0727"
# VG08 export
UNKNOWN_TARGET = "VG0801"
CANNOT_EXPORT = "VG0803"
EXPORT_DEPARTS = "VG0804"
NO_DEVICE = "VG0805"
CANNOT_WRITE_SOURCE = "VG0802"
# VG09 the command line
OUTPUT = "VG0901"
NO_WEIGHTS = "VG0902"

TITLES = {
    BAD_TOML: "the file is not TOML",
    NOT_TEXT: "the file is not UTF-8 text",
    NOT_FOUND: "there is no such spec",
    BAD_EXTENDS: "`extends` names no spec",
    EXTENDS_CYCLE: "a spec extends itself",
    UNKNOWN_KEY: "unknown key",
    MISSING_KEY: "a required key is missing",
    WRONG_VALUE: "a value of the wrong kind",
    BAD_NAME: "a name that is not an identifier",
    UNKNOWN_SIZE: "unknown size",
    UNKNOWN_VARIANT: "unknown variant",
    BAD_OVERRIDE: "an override that cannot be applied",
    BAD_VERSION: "unknown language version",
    UNKNOWN_STAGE: "unknown stage",
    UNKNOWN_COMPONENT: "unknown component type",
    UNKNOWN_PRESET: "unknown preset",
    PRESET_WRONG_TYPE: "a preset of another component type",
    UNKNOWN_FIELD: "a component has no such field",
    INVALID_FIELD: "a field's value is not allowed",
    HEADS_NOT_DIVIDING: "heads do not divide the width",
    KV_HEADS_NOT_DIVIDING: "key/value heads do not divide the heads",
    UNKNOWN_TOKEN: "a token without an id",
    TOKEN_OUTSIDE: "a token id outside the vocabulary",
    REFERENCE_CYCLE: "`of` and `like` in a circle",
    PLUGIN_CLASH: "two plugins provide one name",
    PLUGIN_IMPORT: "a plugin fails to import",
    PLUGIN_API: "a plugin for another API version",
    UNKNOWN_BLOCK: "unknown block",
    UNKNOWN_FACET: "a component has no such facet",
    UNKNOWN_OPTION: "a component has no such call option",
    BUILD_FAILED: "a module cannot be built",
    PLUGIN_FAULT: "a plugin's own code fails",
    BAD_EDGE: "an edge that cannot be read",
    UNKNOWN_NODE: "unknown component or node",
    UNKNOWN_PORT: "unknown port",
    UNDECLARED_OUTPUT: "an edge ends in an undeclared output",
    TWO_EDGES: "two edges into one port",
    NOT_A_LIST_PORT: "several values into a port for one",
    DANGLING_PORT: "a required port is not fed",
    CYCLE: "the graph has a cycle",
    OUTPUT_NOT_FED: "a declared output is not fed",
    BAD_TAP: "no such hidden state",
    BAD_SLICE: "a slice that takes nothing or cannot be read",
    EMPTY_GRAPH: "a graph without edges",
    BAD_TIE: "a tie that cannot be read",
    TIE_SHAPES: "tied parameters of different shapes",
    UNUSED_INPUT: "an input that nothing reads",
    BAD_GRAPH_TEXT: "a line of a graph text that cannot be read",
    INVALID_GRAPH: "a graph that does not hold together",
    BAD_PIPELINE: "a pipeline of passes that cannot run",
    BAD_TYPE: "a type that cannot be read",
    BAD_DIMENSION: "a dimension without an integer value",
    KIND_MISMATCH: "a value of another kind than the port",
    RANK_MISMATCH: "a value with too few dims for the port",
    WRONG_WIDTH: "widths disagree",
    WRONG_TOKEN_COUNT: "token counts disagree",
    WRONG_IMAGE_SIZE: "image sizes disagree",
    WRONG_DIM: "dims disagree",
    NOT_DIVISIBLE: "a division leaves a remainder",
    CANNOT_INFER: "a dim that no edge decides",
    OUTPUT_TYPE: "an output is not what it is declared",
    EXPECT_PARAMS: "the parameter count is not the expected one",
    EXPECT_TOKENS: "the visual token count is not the expected one",
    PROGRAM_OUTPUT: "a program's output names no value",
    PROGRAM_INPUT: "a program's input names no value",
    PROGRAM_CACHE: "a component that cannot be cached",
    PROGRAM_FROM: "a program comes from no program",
    EMPTY_PROGRAM: "a program without outputs",
    OBJECTIVE_UNBOUND: "a loss port bound to nothing",
    UNKNOWN_OBJECTIVE: "a stage asks for an unknown objective",
    NOTHING_TRAINS: "a stage that trains nothing",
    UNKNOWN_ADDRESS: "an address that means nothing",
    STAGE_ORDER: "stages without an order",
    STAGE_INIT: "a stage's copy of weights that does not fit",
    PROCEDURE_PROGRAM: "a procedure runs no program",
    UNKNOWN_PROCEDURE: "unknown procedure type",
    CANNOT_TRAIN: "a quantised model is asked to train",
    NO_CHECKPOINT: "a folder that is no checkpoint",
    BAD_CONFIG: "a configuration that cannot be read",
    UNKNOWN_MODEL_TYPE: "a model type without import rules",
    CONFIG_VALUE: "a configuration value that is not supported",
    CONFIG_KEY: "a configuration key that no rule explains",
    BAD_WEIGHTS: "a weights file that cannot be read",
    MISSING_SHARD: "a missing shard",
    PICKLED_WEIGHTS: "weights as pickles",
    MISSING_WEIGHT: "a tensor that the checkpoint lacks",
    UNEXPECTED_WEIGHT: "a tensor that no rule explains",
    WEIGHT_SHAPE: "a tensor of another shape",
    WEIGHT_DTYPE: "a tensor of another kind of numbers",
    TIED_DIFFER: "tied tensors with different values",
    BAD_LAYOUT: "a layout that cannot be used",
    CANNOT_SAVE: "a model that cannot be written in this format",
    PROCESSOR_TABLE: "a processor entry that cannot be used",
    IMAGE_OPEN: "a picture that cannot be opened",
    NOT_AN_IMAGE: "a file that is not a picture",
    IMAGE_DAMAGED: "a damaged picture",
    IMAGE_TOO_LARGE: "a picture that is too large",
    IMAGE_EMPTY: "an empty file or picture",
    IMAGE_SHAPE: "a picture whose sides do not fit",
    IMAGE_COUNT: "pictures and placeholders do not match",
    TEXT_TOO_LONG: "a text that is too long",
    BAD_TOKENIZER: "a tokenizer that does not fit the model",
    NO_TOKENIZER: "no tokenizer: bytes stand in",
    BAD_TEMPLATE: "a prompt that the template cannot take",
    PROCESSOR_CALL: "a processor called with what it does not take",
    BAD_BOXES: "boxes that cannot be written",
    PROCESSOR_TOKEN: "a processor's token without an id",
    PROCESSOR_NAME: "a processor entry for no input",
    PROCESSOR_SIZE: "a processor's size differs from its input's",
    UNKNOWN_INPUT: "a call with an unknown input",
    MISSING_INPUT: "a call without a needed input",
    BAD_INPUT_SHAPE: "an input of another shape than declared",
    BAD_INPUT_VALUE: "an input whose values do not fit",
    BAD_INPUT_DTYPE: "an input of the wrong dtype",
    BAD_OPTION: "an option that cannot hold",
    NO_GENERATE: "a model that does not generate",
    UNKNOWN_TARGET: "unknown export target",
    CANNOT_EXPORT: "a part that a target cannot take",
    EXPORT_DEPARTS: "an exported graph that does not compute what eager does",
    NO_DEVICE: "a device that is not there",
    CANNOT_WRITE_SOURCE: "a part without source that stands alone",
    OUTPUT: "an output folder that cannot be written",
    NO_WEIGHTS: "a model without weights",
}
