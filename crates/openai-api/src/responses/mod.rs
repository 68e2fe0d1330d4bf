//! `POST /v1/responses`: the API's newer form of a chat. Nothing is kept, so that each request brings
//! the whole conversation.

mod event;
mod request;
mod response;

pub use event::ResponseEvent;
pub use request::ResponsesRequest;
pub use response::{
    IncompleteDetails, InputTokensDetails, ItemStatus, OutputItem, OutputLogprob, OutputText,
    OutputTokensDetails, OutputTopLogprob, Response, ResponseError, ResponseFormatFields,
    ResponseStatus, ResponseText, ResponseTool, ResponseToolChoice, ResponseUsage,
};
