// Horovod 0.28.1 includes this path; TensorFlow 2.19 and later keep the header elsewhere.
#include "xla/hlo/builder/xla_builder.h"
