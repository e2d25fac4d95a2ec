// Inside another page, such as a run in MLflow, the links to files beside this one lead nowhere.
if (window.self !== window.top) document.body.classList.add("framed");
